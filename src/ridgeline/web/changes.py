"""Changing a conversation: its title, pin, settings and the branch that it shows."""

from dataclasses import replace

from ridgeline.protocol import Refusal
from ridgeline.store.records import Conversation
from ridgeline.web.conversations import Conversations
from ridgeline.web.rules import NotFoundError
from ridgeline.web.schemas import ConversationChange, title_in
from ridgeline.web.settings import WebSettings
from ridgeline.web.temporary import is_temporary


async def change(
    conversations: Conversations,
    settings: WebSettings,
    conversation: Conversation,
    wanted: ConversationChange,
) -> Conversation:
    """Make the changes that were sent, all of them or none.

    Raises:
        Refusal: one of them cannot be made.
    """
    title = None if wanted.title is None else title_in(wanted.title)
    if wanted.pinned and not conversation.pinned:
        await _check_pin(conversations, settings, conversation)
    if wanted.leaf_id is not None:
        rows = await conversations.messages(conversation.id)
        if all(row.id != wanted.leaf_id for row in rows):
            raise NotFoundError("message", "leaf_id")

    def changed(found: Conversation) -> Conversation:
        if title is not None:
            found = replace(found, title=title, title_by="user")
        if wanted.pinned is not None:
            found = replace(found, pinned=wanted.pinned)
        if wanted.settings is not None:
            found = replace(found, settings=wanted.settings.over(found.settings, settings))
        if wanted.leaf_id is not None:
            found = replace(found, leaf_id=wanted.leaf_id)
        return found

    kept = await conversations.change(conversation.tenant, conversation.id, changed)
    if kept is None:
        raise NotFoundError("conversation", "conversation_id")
    return kept


async def _check_pin(conversations: Conversations, settings: WebSettings, conversation: Conversation) -> None:
    if is_temporary(conversation.id):
        raise Refusal("invalid_request", "A temporary conversation cannot be pinned.", param="pinned")
    limit = settings.max_pinned
    if await conversations.count_pinned(conversation.tenant) >= limit:
        raise Refusal(
            "limit_reached",
            f"{limit} conversations are pinned, the limit (--site max-pinned): unpin one first.",
            param="pinned",
        )
