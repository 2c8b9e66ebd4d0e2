// How much of the model's context the branch that is shown takes up, and how much of that was
// still in the cache.
import { html } from './lib.js';
import { models, thread } from './state.js';
import { text } from './text.js';

const NEARLY_FULL = 0.85;

// By the newest answer that tells; null before there is one.
export function contextOf(messages, served) {
  const told = messages.findLast((message) => Number.isInteger(message.data.value.usage?.prompt_tokens));
  if (!told) return null;
  const { model, usage } = told.data.value;
  const limit = served.find((entry) => entry.name === model)?.max_context_tokens;
  if (!limit) return null;
  return { used: usage.prompt_tokens + usage.completion_tokens, cached: usage.cached_tokens ?? 0, limit };
}

export function Meter() {
  const context = contextOf(thread.value?.messages.value ?? [], models.value);
  if (!context) return null;
  const { used, cached, limit } = context;
  const part = (tokens) => `${Math.min(100, (tokens / limit) * 100).toFixed(1)}%`;
  const says = text.context.long(used, limit, cached);
  return html`
    <div
      class=${used / limit > NEARLY_FULL ? 'meter full' : 'meter'}
      role="meter"
      aria-label=${text.context.name}
      aria-valuemin="0"
      aria-valuemax=${limit}
      aria-valuenow=${Math.min(used, limit)}
      aria-valuetext=${says}
      title=${says}
    >
      <span class="bar"><i style=${{ width: part(used) }}></i><i class="cached" style=${{ width: part(cached) }}></i></span>
      <span>${text.context.short(used, limit)}</span>
    </div>
  `;
}
