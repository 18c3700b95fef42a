"""Answers sampled from a model, scored, and what two models' scores prove."""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.verdict import (
    mcnemar,
    paired_bootstrap,
    pass_rate_bounds,
    verdict,
    wilson_interval,
)


@torch.no_grad()
def sample_answers(
    model: Any, tokenizer: Any, rows: Any, settings: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Sample one completion per row; at temperature 0, take the likeliest tokens.

    Returns:
        Per row: `text`, `token_ids` and `phi`, the mean Φ of its tokens (measured at
        temperature 1 where the decoding is greedy).
    """
    torch.manual_seed(seed)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.padding_side = "left"
    tau, size, answers = settings["temperature"], settings["batch_size"], []
    warm = {"do_sample": True, "temperature": tau, "top_k": 0, "top_p": 1.0}
    for start in range(0, len(rows), size):
        prompts = rows[start : start + size]["prompt"]
        if isinstance(prompts[0], str):
            batch = tokenizer(prompts, return_tensors="pt", padding=True)
        else:
            batch = tokenizer.apply_chat_template(
                prompts,
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                padding=True,
            )
        batch = batch.to(model.device)
        width = batch["input_ids"].shape[1]  # P
        out = model.generate(
            **batch,
            max_new_tokens=settings["max_new_tokens"],
            **(warm if tau > 0 else {"do_sample": False}),
        )  # [B, P + T]
        sampled = out[:, width:]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(sampled)], 1)
        logits = model(out, attention_mask=mask).logits[:, width - 1 : -1]  # [B, T, V]
        entropy, _ = token_field(logits, sampled, tau or 1.0)  # [B, T]
        phi = order_parameter(entropy, logits.shape[-1])
        for tokens, field in zip(sampled.tolist(), phi, strict=True):
            if tokenizer.eos_token_id in tokens:
                tokens = tokens[: tokens.index(tokenizer.eos_token_id) + 1]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            mean = field[: len(tokens)].mean().item()
            answers.append({"text": text, "token_ids": tokens, "phi": mean})
    return answers


def item_scores(
    answers: list[dict[str, Any]], rows: Any, rewards: list[Any], weights: list[float]
) -> list[float]:
    """Each answer's weighted mean task reward; a row that cannot be scored gets 0."""
    columns = {name: rows[name] for name in rows.column_names if name != "prompt"}
    texts = [item["text"] for item in answers]
    tokens = [item["token_ids"] for item in answers]
    scores = [0.0] * len(answers)
    for reward, weight in zip(rewards, weights, strict=True):
        values = reward(completions=texts, completion_ids=tokens, **columns)
        for i, value in enumerate(values):
            scores[i] += (value or 0.0) * weight / sum(weights)
    return scores


def paired_verdict(
    before: list[float], after: list[float], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Did the second model pass more of the same items? PASS, FAIL or INCONCLUSIVE.

    Exact one-sided McNemar test at level alpha, in either direction; beside it the
    bootstrap interval of the gain.
    """
    bar, alpha = settings["item_pass"], settings["alpha"]
    old, new = [x >= bar for x in before], [x >= bar for x in after]
    gained = sum(b and not a for a, b in zip(old, new, strict=True))
    lost = sum(a and not b for a, b in zip(old, new, strict=True))
    better, worse = mcnemar(gained, lost)[0], mcnemar(lost, gained)[0]
    decided = "PASS" if better < alpha else "FAIL" if worse < alpha else "INCONCLUSIVE"
    return {
        "verdict": decided,
        "items": len(old),
        "before": sum(old) / len(old),
        "after": sum(new) / len(new),
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
    worst = next(v for v in ("FAIL", "INCONCLUSIVE", "PASS") if v in either)
    return {**paired, **rate, "verdict": worst}
