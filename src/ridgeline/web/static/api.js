// Calls to the server, and its event streams. Nothing here knows what a page is.

const KEY = 'ridgeline.key';
let key = read();

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // storage may be forbidden; the key then lasts until the next load
  }
}

export function setKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // kept in memory only
  }
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
    throw new ApiError('unreachable', 'The server does not answer.');
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

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
  return response.json();
}

export async function download(path) {
  const response = await request(path, { headers: headers({}) });
  return response.blob();
}

// Server-sent events by fetch: EventSource cannot send an Authorization header.
export async function* events(path, lastEventId, signal) {
  const extra = { accept: 'text/event-stream' };
  if (lastEventId) extra['last-event-id'] = lastEventId;
  const response = await request(path, { headers: headers(extra), signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    let end;
    while ((end = rest.indexOf('\n\n')) >= 0) {
      const event = parse(rest.slice(0, end));
      rest = rest.slice(end + 2);
      if (event) yield event;
    }
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
