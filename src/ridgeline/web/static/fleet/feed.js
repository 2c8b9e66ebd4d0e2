// What the front door knows, once a second while anybody looks.
import { showToken } from '../api.js';
import { polling } from '../dashboard/poll.js';
import { signal } from '../lib.js';

showToken();

export const fleet = signal(null); // what `/fleet/status` says; null before it has answered

export const feed = polling('/fleet/status', (found) => (fleet.value = found), 'forbidden');
