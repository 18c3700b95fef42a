"""Answers sampled from a model, scored, and what two models' scores prove."""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.supervisor import StopRequest
from carl_runtime_min.verdict import (
    mcnemar,
    paired_bootstrap,
    pass_rate_bounds,
    verdict,
    wilson_interval,
)

UNDECIDED = "INCONCLUSIVE"


@torch.no_grad()
def sample_answers(
    model: Any,
    tokenizer: Any,
    rows: Any,
    settings: dict[str, Any],
    seed: int,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """One completion per row: its `text`, its `token_ids` and `phi`, their mean Φ.

    At temperature 0 the likeliest tokens are taken, and Φ is measured at temperature 1.
    """
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tau, size, answers = settings["temperature"], settings["batch_size"], []
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    warm = {"temperature": tau, "top_k": 0, "top_p": 1.0} if tau > 0 else {}
    model.generation_config = GenerationConfig(  # as in training: the policy, no more
        max_new_tokens=settings["max_new_tokens"],
        do_sample=tau > 0,
        eos_token_id=list(ends - {None}),
        pad_token_id=tokenizer.pad_token_id,
        **warm,
    )
    for start in range(0, len(rows), size):
        if stop and stop.asked():
            raise CarlError("asked to stop", remedy="run it again", exit_code=85)
        prompts = rows[start : start + size]["prompt"]
        chat = not isinstance(prompts[0], str)
        if chat:
            prompts = tokenizer.apply_chat_template(
                prompts, add_generation_prompt=True, tokenize=False
            )
        tokenizer.padding_side = "left"
        batch = tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=not chat
        ).to(model.device)
        width = batch["input_ids"].shape[1]  # P
        out = model.generate(**batch)  # [B, P + T]
        sampled = out[:, width:]
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
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    columns["prompts"] = rows["prompt"][:]
    columns["completions"] = [
        (
            item["text"]
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": item["text"]}]
        )
        for item, prompt in zip(answers, columns["prompts"], strict=True)
    ]
    columns["completion_ids"] = [item["token_ids"] for item in answers]
    scores = zip(*(reward(**columns) for reward in rewards), strict=True)
    return [
        sum(w * (x or 0.0) for w, x in zip(weights, row, strict=True)) / sum(weights)
        for row in scores
    ]


def paired_verdict(
    before: list[float], after: list[float], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Did the second model pass more of the same items? PASS, FAIL or INCONCLUSIVE.

    Exact one-sided McNemar tests at level alpha; beside them the bootstrap interval of
    the gain.
    """
    alpha, n = settings["alpha"], len(before)
    pairs = [
        (old >= settings["item_pass"], new >= settings["item_pass"])
        for old, new in zip(before, after, strict=True)
    ]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    better, worse = mcnemar(gained, lost)[0], mcnemar(lost, gained)[0]
    return {
        "verdict": "PASS" if better < alpha else "FAIL" if worse < alpha else UNDECIDED,
        "items": n,
        "before": sum(old for old, _ in pairs) / n,
        "after": sum(new for _, new in pairs) / n,
        "gained": gained,
        "lost": lost,
        "p_value": better,
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
    worst = next(v for v in ("FAIL", UNDECIDED, "PASS") if v in either)
    return {**paired, **rate, "verdict": worst}
