// Calls to the server, and its event streams. Nothing here knows what a page is.

const KEY = 'ridgeline.key';
const TOKEN = 'ridgeline.fleet';
let name = KEY;
let key = read();

function read() {
  try {
    return sessionStorage.getItem(name) ?? localStorage.getItem(name);
  } catch {
    return null; // storage may be forbidden; the key then lasts until the next load
  }
}

// The page shows the fleet's token instead of a key; neither is ever sent in the other's place.
export function showToken() {
  name = TOKEN;
  key = read();
}

export const hasKey = () => Boolean(key);

export function setKey(value) {
  key = value;
}

// Keeps the key for as long as this tab lives, or on this device for all of the browser's tabs.
export function keepKey(onDevice) {
  try {
    sessionStorage.removeItem(name);
    localStorage.removeItem(name);
    (onDevice ? localStorage : sessionStorage).setItem(name, key);
  } catch {
    // kept in memory only
  }
}

// Nothing of whoever was signed in stays behind in this tab, drafts included.
export function forgetKey() {
  key = null;
  try {
    sessionStorage.clear();
    localStorage.removeItem(KEY);
  } catch {
    // there was nothing
  }
}

// Calls `came` with a key that another tab keeps on this device, and `went` when it forgets ours.
export function onKeyElsewhere(came, went) {
  addEventListener('storage', (event) => {
    if (event.key !== KEY || event.storageArea !== localStorage) return;
    if (event.newValue) came(event.newValue);
    else if (event.oldValue === key) went();
  });
}

export class ApiError extends Error {
  constructor(code, message, { status = 0, param = null, retryAfterSeconds = null } = {}) {
    super(message);
    this.code = code;
    this.param = param; // the field that is wrong
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

function headers(extra) {
  return key ? { ...extra, authorization: `Bearer ${key}` } : extra;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', credentials: 'omit', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw unreachable();
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

const unreachable = () => new ApiError('unreachable', 'The server does not answer.');

async function errorOf(response) {
  let body = null;
  try {
    body = (await response.json()).error;
  } catch {
    // a proxy's own error page
  }
  const seconds = body?.estimated_wait_seconds ?? Number.parseFloat(response.headers.get('retry-after'));
  return new ApiError(body?.code ?? 'internal_error', body?.message ?? `The server answered ${response.status}.`, {
    status: response.status,
    param: body?.param ?? null,
    retryAfterSeconds: Number.isFinite(seconds) ? seconds : null,
  });
}

// `body` is sent as JSON; a file is taken to hold JSON already.
export async function call(method, path, body, signal) {
  const response = await request(path, {
    method,
    headers: headers(body === undefined ? {} : { 'content-type': 'application/json' }),
    body: body === undefined || body instanceof Blob ? body : JSON.stringify(body),
    signal,
  });
  try {
    return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw unreachable();
  }
}

export async function download(path) {
  const response = await request(path, { headers: headers({}) });
  return response.blob();
}

// Server-sent events by fetch: EventSource cannot send an Authorization header. The first one says that the
// stream is open; one without a byte for `silentMs` is lost.
export async function* events(path, lastEventId, signal, silentMs) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new DOMException('silence', 'TimeoutError')), silentMs);
  };
  const extra = { accept: 'text/event-stream' };
  if (lastEventId) extra['last-event-id'] = lastEventId;
  heard();
  try {
    const response = await request(path, { headers: headers(extra), signal: AbortSignal.any([signal, silence.signal]) });
    yield { kind: 'open' };
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await next(reader);
      if (done) return;
      heard();
      rest += decoder.decode(value, { stream: true });
      let end;
      while ((end = rest.indexOf('\n\n')) >= 0) {
        const event = parse(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (event) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

async function next(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw unreachable();
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split('\n')) {
    const colon = line.indexOf(': ');
    if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
  }
  return event.data ? { id: event.id, kind: event.event, data: JSON.parse(event.data) } : null;
}
