"""Which pool scores which source, on which rubric, with which prompt: resolved from the configuration, before any I/O
with replicas."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.core.group import UNKNOWN, Group
from mira_stream.core.prompt import SPECIAL_TOKENS, PromptTemplate
from mira_stream.core.reply_regex import reply_regex
from mira_stream.core.request import RequestEncoder, RequestSettings
from mira_stream.core.rubric import Rubric
from mira_stream.daemon.anchors import load_groups, load_rubric
from mira_stream.daemon.config import Config, PoolSection, PromptSection
from mira_stream.daemon.secrets import read_secret
from mira_stream.pipeline.draft import Prompting
from mira_stream.replica.tokenizer import special_tokens, tokenizer_file
from mira_stream.replica.vllm import server_name

if TYPE_CHECKING:
    from mira_stream.replica.chat_template import ChatTemplate

EVERY_SOURCE = "*"


class TokenizerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's tokenizer, read but not loaded: its file, its special tokens, and the chat template beside it."""

    file: Path
    special: dict[str, int]
    template: "ChatTemplate"


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, resolved. `sources` may hold `*`: every source that no other pool names."""

    group: str
    model: str
    sources: frozenset[str]
    replicas: tuple[str, ...]
    rubric: Rubric
    prompting: Prompting
    api_key: str | None
    tokenizer: TokenizerPlan | None = None


def plan_pools(config: Config) -> tuple[PoolPlan, ...]:
    """All pools. Raises Refusal for an unknown group, a group of which too little is known, a source that two pools
    claim, a missing secret."""
    groups = load_groups(config.anchors.path)
    plans = tuple(_plan(section, config, groups) for section in config.pool)
    _refuse_shared_sources(plans)
    _refuse_shared_replicas(plans)
    return plans


def pool_for(plans: Sequence[PoolPlan], source: str) -> PoolPlan | None:
    """The pool that scores `source`, or None."""
    for plan in plans:
        if source in plan.sources:
            return plan
    return next((plan for plan in plans if EVERY_SOURCE in plan.sources), None)


def claimed_sources(config: Config) -> frozenset[str]:
    """The sources that pools score, `*` among them for all others; needs no secret. Raises Refusal as `plan_pools`."""
    groups = load_groups(config.anchors.path)
    return frozenset().union(*(_sources(section, _group(section, groups)) for section in config.pool))


def _sources(section: PoolSection, group: Group) -> frozenset[str]:
    return frozenset(section.sources if section.sources is not None else group.sources)


def known_sources(config: Config, plans: Sequence[PoolPlan]) -> frozenset[str]:
    """Source names that config or groups.toml knows: the values that a metric label may have."""
    named = {name for group in load_groups(config.anchors.path).values() for name in group.sources}
    return frozenset(named.union(*(plan.sources for plan in plans)) - {EVERY_SOURCE})


def _plan(section: PoolSection, config: Config, groups: dict[str, Group]) -> PoolPlan:
    group = _group(section, groups)
    rubric = load_rubric(group, config.anchors.path)
    model = section.model or group.model
    context = section.context_tokens or group.context_tokens
    if context == UNKNOWN:
        raise Refusal(
            f"the context length of group {group.id} is not known", "set context_tokens in its [[pool]]"
        )
    if config.request.max_tokens + 1024 > context:
        raise Refusal(
            f"[request] max_tokens {config.request.max_tokens} leaves no room for a record in {context} tokens",
            "lower max_tokens, or raise the pool's context_tokens",
        )
    tokenizer = _tokenizer(section, config)
    prompting = Prompting(
        group=group.id,
        slots=rubric.slots,
        template=_template(rubric, config.prompt),
        encoder=RequestEncoder(config.request, model=model, reply_regex=_reply_regex(rubric, config.request)),
        context_tokens=context,
        max_tokens=config.request.max_tokens,
        truncate=config.request.overflow == "middle",
        special=SPECIAL_TOKENS.union(tokenizer.special if tokenizer else ()),
    )
    return PoolPlan(
        group=group.id,
        model=model,
        sources=_sources(section, group),
        replicas=section.replicas,
        rubric=rubric,
        prompting=prompting,
        api_key=read_secret(section.api_key_env) if section.api_key_env else None,
        tokenizer=tokenizer,
    )


def _reply_regex(rubric: Rubric, request: RequestSettings) -> str | None:
    if request.structured_output == "off":
        return None
    return reply_regex(rubric, text_chars_max=request.structured_text_chars_max)


def _tokenizer(section: PoolSection, config: Config) -> TokenizerPlan | None:
    if section.tokenizer is None:
        if config.request.mode == "tokens":
            raise Refusal(
                f'[request] mode = "tokens" needs a tokenizer in the [[pool]] of {section.group}',
                "give the model's folder as `tokenizer`, or leave `mode` out",
            )
        return None
    file = tokenizer_file(section.tokenizer)
    # Only now it is known that Jinja is installed.
    from mira_stream.replica.chat_template import load_chat_template

    template = load_chat_template(file.parent, config.request.chat_template_kwargs)
    return TokenizerPlan(file=file, special=special_tokens(file), template=template)


def _group(section: PoolSection, groups: dict[str, Group]) -> Group:
    group = groups.get(section.group)
    if group is None:
        raise Refusal(f"there is no group {section.group}", f"groups.toml knows {', '.join(groups)}")
    if group.prompt_family not in ("agent", UNKNOWN):
        raise Refusal(
            f"group {group.id} needs the prompt family {group.prompt_family}, which this release does not have",
            "score a group of the agent family",
        )
    return group


def _template(rubric: Rubric, prompt: PromptSection) -> PromptTemplate:
    return PromptTemplate.build(
        rubric,
        system_text=_text(prompt.system_file, "[prompt] system_file"),
        user_template=_text(prompt.user_template_file, "[prompt] user_template_file"),
    )


def _text(path: str | None, key: str) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes().decode("utf-8")  # byte for byte: no newline translation
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{key}: cannot read {path}: {error}", "give the path of a UTF-8 text file") from error


def _refuse_shared_sources(plans: Sequence[PoolPlan]) -> None:
    owner: dict[str, str] = {}
    for plan in plans:
        for source in sorted(plan.sources):
            if source in owner:
                raise Refusal(
                    f"source {source} is claimed by two pools, {owner[source]} and {plan.group}",
                    "a record has one outcome: name each source in one pool's `sources` only",
                )
            owner[source] = plan.group
    groups = [plan.group for plan in plans]
    if len(set(groups)) != len(groups):
        raise Refusal("two pools score one group", "list all replicas of a group in one [[pool]]")


def _refuse_shared_replicas(plans: Sequence[PoolPlan]) -> None:
    names = [server_name(url) for plan in plans for url in plan.replicas]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refusal(f"replica {twice} is listed twice", "each replica belongs to one pool, once")
