"""Answers sampled from a model, scored, and what two models' scores prove."""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.run import Run
from carl_runtime_min.supervisor import asked_to_stop
from carl_runtime_min.verdict import (
    mcnemar,
    paired_bootstrap,
    pass_rate_bounds,
    verdict,
    wilson_interval,
)


@torch.no_grad()
def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: list[Any],
    settings: dict[str, Any],
    run: Run | None = None,
) -> list[dict[str, Any]]:
    """One completion per prompt: its `text`, its `token_ids`, their mean Φ as `phi`.

    At temperature 0 the likeliest tokens are taken, and Φ is measured at temperature 1.
    """
    from transformers import GenerationConfig

    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tau, size, answers = settings["temperature"], settings["batch_size"], []
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    warm = {"temperature": tau, "top_k": 0, "top_p": 1.0} if tau > 0 else {}
    model.generation_config = GenerationConfig(  # as in training: the policy, no more
        max_new_tokens=settings["max_new_tokens"],
        do_sample=tau > 0,
        eos_token_id=list(ends),
        pad_token_id=tokenizer.pad_token_id,
        **warm,
    )
    for start in range(0, len(prompts), size):
        if run and asked_to_stop(run.path):
            raise CarlError("asked to stop", remedy="run it again", exit_code=85)
        texts = prompts[start : start + size]
        chat = not isinstance(texts[0], str)
        if chat:
            render = tokenizer.apply_chat_template
            texts = render(texts, add_generation_prompt=True, tokenize=False)
        tokenizer.padding_side = "left"
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=not chat
        ).to(model.device)
        out = model.generate(**batch)  # [B, P + T]
        sampled = out[:, batch["input_ids"].shape[1] :]  # [B, T]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(sampled)], 1)
        keep = sampled.shape[1] + 1
        logits = model(out, attention_mask=mask, logits_to_keep=keep).logits[:, :-1]
        entropy, _ = token_field(logits, sampled, tau or 1.0)  # [B, T]
        phi = order_parameter(entropy, logits.shape[-1])
        for tokens, field in zip(sampled.tolist(), phi, strict=True):
            stops = (n for n, token in enumerate(tokens, 1) if token in ends)
            tokens = tokens[: next(stops, len(tokens))]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            mean = field[: len(tokens)].mean().item()
            answers.append({"text": text, "token_ids": tokens, "phi": mean})
    return answers


def item_scores(
    answers: list[dict[str, Any]], rows: Any, rewards: list[Any], weights: list[float]
) -> list[float]:
    """Each answer's weighted mean task reward; what cannot be scored counts as 0."""
    columns = {name: rows[name][:] for name in rows.column_names}
    columns["prompts"] = prompts = columns.pop("prompt")
    columns["completion_ids"] = [answer["token_ids"] for answer in answers]
    texts = [answer["text"] for answer in answers]
    if not isinstance(prompts[0], str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    found = [reward(completions=texts, **columns) for reward in rewards]
    return [
        sum(w * (x or 0.0) for w, x in zip(weights, row, strict=True)) / sum(weights)
        for row in zip(*found, strict=True)
    ]


def paired_verdict(
    before: list[float], after: list[float], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Did the second model pass more of the same items? PASS, FAIL or INCONCLUSIVE.

    Exact one-sided McNemar tests at level alpha; beside them the bootstrap interval of
    the gain.
    """
    alpha, least, n = settings["alpha"], settings["item_pass"], len(before)
    old, new = ([score >= least for score in scores] for scores in (before, after))
    pairs = list(zip(old, new, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    better, worse = mcnemar(gained, lost) < alpha, mcnemar(lost, gained) < alpha
    return {
        "verdict": "PASS" if better else "FAIL" if worse else "INCONCLUSIVE",
        "items": n,
        "before": sum(old) / n,
        "after": sum(new) / n,
        "gained": gained,
        "lost": lost,
        "p_value": mcnemar(gained, lost),
        "gain_interval": paired_bootstrap(before, after, alpha, seed),
    }


def rate_verdict(scores: list[float], settings: dict[str, Any]) -> dict[str, Any]:
    """Is the pass rate at least `threshold`? Exact one-sided bounds at level alpha."""
    passes, n = sum(x >= settings["item_pass"] for x in scores), len(scores)
    threshold, alpha = settings["threshold"], settings["alpha"]
    return {
        "verdict": verdict(passes, n, threshold, alpha),
        "items": n,
        "pass_rate": passes / n,
        "bounds": pass_rate_bounds(passes, n, alpha),
        "wilson": wilson_interval(passes, n, 2 * alpha),
    }


def both_verdicts(paired: dict[str, Any], rate: dict[str, Any]) -> dict[str, Any]:
    """PASS only if both pass, FAIL if one fails."""
    either = {paired["verdict"], rate["verdict"]}
    worst = next(v for v in ("FAIL", "INCONCLUSIVE", "PASS") if v in either)
    return {**paired, **rate, "verdict": worst}
