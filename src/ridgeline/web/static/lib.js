// The few names that every component needs, from the vendored libraries.
import { Component, h, render } from './vendor/preact.js';
import { useEffect, useLayoutEffect, useRef, useState } from './vendor/hooks.js';
import { batch, computed, effect, signal } from './vendor/signals.js';
import htm from './vendor/htm.js';

export const html = htm.bind(h);
export { batch, Component, computed, effect, render, signal, useEffect, useLayoutEffect, useRef, useState };
