"""GRPO whose rewards see how each token was generated.

TRL hands reward functions text and token ids. These mixins add what CARL measures:
`token_logps` and `token_entropies` of exactly the sampled tokens, under the policy as
the trainer scores it. Compose one with the trainer:

    class Trainer(CoherentGRPO, GRPOTrainer): ...
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from carl_runtime_min.cascade import Cascade, damp_ties
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.field import order_parameter
from carl_runtime_min.rewards import carl_reward, coherence_components
from carl_runtime_min.run import RunDir

HOOKS = {
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_calculate_rewards": "inputs, prompts, completions, completion_ids_list",
    "_get_per_token_logps_and_entropies": "model, input_ids, attention_mask, "
    "logits_to_keep, batch_size, compute_entropy",
}


def check_hooks(trainer_class: type) -> None:
    """Stop if TRL's private methods are not the ones this script was written for."""
    for name, expected in HOOKS.items():
        method = getattr(trainer_class, name, None)
        found = list(inspect.signature(method).parameters)[1:] if method else []
        if found[: expected.count(",") + 1] != expected.split(", "):
            raise CarlError(
                f"TRL's {trainer_class.__name__}.{name} takes ({', '.join(found)}), "
                f"not ({expected}, ...)",
                remedy="install the TRL version pinned at the top of this script",
                exit_code=4,
            )


class CoherenceReward:
    """R_CARL as a TRL reward function: None for every row while the field is not given.

    Args:
        vocab_size: V, the width of the output head.
        weights: Of coherence, cloud and discontinuity.
    """

    __name__ = "carl"

    def __init__(self, vocab_size: int, weights: tuple[float, float, float]) -> None:
        self.vocab_size, self.weights = vocab_size, weights

    def __call__(
        self,
        completion_ids: list[list[int]],
        token_logps: list[torch.Tensor] | None = None,
        token_entropies: list[torch.Tensor] | None = None,
        token_junctions: list[torch.Tensor] | None = None,
        log_metric: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        if token_logps is None or token_entropies is None or token_junctions is None:
            return [None] * len(completion_ids)
        ones = [torch.ones_like(row, dtype=torch.bool) for row in token_logps]
        mask = pad_sequence(ones, batch_first=True)  # [B, T]
        log_probs = pad_sequence(token_logps, batch_first=True)
        entropy = pad_sequence(token_entropies, batch_first=True)
        joints = pad_sequence(token_junctions, batch_first=True)
        phi = order_parameter(entropy, self.vocab_size)
        parts = coherence_components(phi, log_probs, mask, joints)  # each [B]
        rewards = carl_reward(phi, log_probs, mask, self.weights, joints)  # [B]
        if log_metric is not None:
            for name, values in zip(parts._fields, parts, strict=True):
                log_metric(f"carl/{name}", values.nanmean().item())
        return [None if torch.isnan(reward) else reward.item() for reward in rewards]


class SampledGRPO:
    """Mixin: keeps the sampled tokens, bars non-finite rewards, records samples."""

    run: RunDir
    samples_every = 10
    samples_each = 4

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        if generated[6] is not None:
            raise UsageError(
                "the data holds images, which this script does not score",
                remedy="drop the image columns",
            )
        self.prompt_ids, self.completion_ids, self.tool_mask = generated[:3]
        return generated

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, torch.Tensor]]:
        """One batched pass over the sampled tokens: the field of each completion.

        Dropout is off while scoring. Tokens of tools are scored as context and left
        out of the result, with a junction where they were.

        Args:
            count: Only the first `count` completions; None means all.

        Returns:
            Per completion `token_logps`, `token_entropies` and `token_junctions`, each
            [policy tokens], on the CPU.
        """
        prompts = [torch.tensor(row) for row in self.prompt_ids[:count]]
        sampled = [torch.tensor(row).long() for row in self.completion_ids[:count]]
        present = [torch.ones_like(row, dtype=torch.bool) for row in sampled]
        shown = [torch.ones_like(row, dtype=torch.bool) for row in prompts]
        left, right = partial(pad_sequence, padding_side="left"), pad_sequence
        ids = torch.cat([left(prompts, True), right(sampled, True)], 1)  # [B, P + T]
        mask = torch.cat([left(shown, True), right(present, True)], 1)
        longest = max(map(len, sampled))  # T
        if longest:
            training, device = self.model.training, self.accelerator.device
            self.model.eval()
            try:
                log_probs, entropy, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    ids.to(device),
                    mask.long().to(device),
                    longest,
                    batch_size=self.args.per_device_train_batch_size,
                    compute_entropy=True,
                )
            finally:
                self.model.train(training)
        else:
            log_probs = entropy = torch.zeros(len(sampled), 0)
        return self.policy_rows(log_probs, entropy)

    def policy_rows(
        self, log_probs: torch.Tensor, entropy: torch.Tensor
    ) -> list[dict[str, torch.Tensor]]:
        """Split padded scores [B, T] into one field per completion, policy only."""
        fields = []
        rows = zip(log_probs.float().cpu(), entropy.float().cpu(), strict=True)
        for i, (row_log_probs, row_entropy) in enumerate(rows):
            count = len(self.completion_ids[i])
            own = torch.tensor(self.tool_mask[i] if self.tool_mask else [1] * count)
            places = own.nonzero().squeeze(-1)
            gaps = places.diff(prepend=places[:1] - 1) != 1
            fields.append(
                {
                    "token_logps": row_log_probs[places],
                    "token_entropies": row_entropy[places],
                    "token_junctions": gaps,
                }
            )
        return fields

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )  # [global B, functions]
        broken = rewards.isinf()
        self.count("rewards/infinite", broken.any(1))
        rewards[broken] = torch.nan
        self.completions, self.rewards = completions, rewards
        return rewards

    def count(self, name: str, rows: torch.Tensor) -> None:
        """Log how many of the batch's rows `rows` [B] marks."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(rows.sum().item())

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        step = self.state.global_step
        if self.model.training and step % self.samples_every == 0:
            self.record_samples(inputs, batch["advantages"])
        return batch

    def record_samples(
        self, inputs: list[dict[str, Any]], advantages: torch.Tensor
    ) -> None:
        """Write the first completions of this batch with each token's Φ and p."""
        first = self.accelerator.process_index * len(inputs)
        for i, field in enumerate(self.score(self.samples_each)):
            rewards = self.rewards[first + i].tolist()
            phi = order_parameter(field["token_entropies"], self.vocab_size)
            self.run.append(
                "samples",
                {
                    "step": self.state.global_step,
                    "prompt": inputs[i]["prompt"],
                    "completion": self.completions[i],
                    "token_ids": self.completion_ids[i],
                    "rewards": dict(zip(self.reward_func_names, rewards, strict=True)),
                    "advantage": advantages[i].item(),
                    "phi": phi.tolist(),
                    "p": field["token_logps"].exp().tolist(),
                },
            )


class CoherentGRPO(SampledGRPO):
    """Mixin: adds R_CARL to the task rewards once the cascade has opened.

    `reward_funcs` ends with the `CoherenceReward`; those before it are the task's.
    """

    cascade: Cascade
    tie_weight: float

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        step, weights = self.state.global_step, self.reward_weights
        self.cascade.begin(step)
        coherent = self.cascade.stage == "B"
        if coherent:
            weights[-1] = self.cascade.weight(step)
            fields = self.batch_field()
            inputs = [{**row, **f} for row, f in zip(inputs, fields, strict=True)]
        rewards = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        tasks, unscored = rewards[:, :-1], rewards[:, :-1].isnan().all(1)
        total = (tasks * weights[:-1].to(tasks.device)).nansum(1)  # [global B]
        self.task_total = total.masked_fill(unscored, torch.nan)
        if coherent:
            unscorable = unscored | rewards[:, -1].isnan()
            self.count("rewards/unscorable", unscorable)
            rewards[unscorable] = torch.nan
        metric = self.task_total.nanmean().item()
        self.cascade.observe(metric, step)
        log = self._metrics["train" if self.model.training else "eval"]
        log["cascade/metric"].append(metric)
        log["cascade/threshold"].append(self.cascade.threshold or torch.nan)
        log["carl/stage"].append(float(coherent))
        log["carl/weight"].append(self.cascade.weight(step))
        return rewards

    def batch_field(self) -> list[dict[str, torch.Tensor]]:
        """The field of every completion of this batch, on this rank."""
        return self.score()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        ties = self.scale_rewards == "group"
        ties |= self.multi_objective_aggregation == "normalize_then_sum"
        if ties and self.cascade.stage == "B":
            ramp = self.cascade.weight(self.state.global_step)
            factor = ramp / self.cascade.carl_weight * self.tie_weight
            every = torch.ones_like(self.task_total)  # [global B]
            scale = damp_ties(every, self.task_total, self.num_generations, factor)
            first = self.accelerator.process_index * len(inputs)
            batch["advantages"] *= scale[first : first + len(inputs)]
        return batch


class ReusedScores(CoherentGRPO):
    """Takes the field from the pass in which TRL itself scores before the rewards.

    TRL runs that pass first whenever it runs it at all (the samples may be older than
    the policy, or vLLM drew them); a pass of the reference model comes after it.
    """

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.reused: tuple[torch.Tensor, torch.Tensor] | None = None
        return super()._generate_and_score_completions(inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, *args: Any, compute_entropy: bool = False, **kwargs: Any
    ) -> Any:
        first = not torch.is_grad_enabled() and self.reused is None
        scores = super()._get_per_token_logps_and_entropies(
            model, *args, compute_entropy=compute_entropy or first, **kwargs
        )
        if first:
            self.reused = scores[0], scores[1]
        return scores

    def batch_field(self) -> list[dict[str, torch.Tensor]]:
        if self.reused is None:
            raise CarlError(
                "TRL did not score the samples before the rewards, as this script "
                "was written for",
                remedy="render the script again for these settings",
            )
        return self.policy_rows(*self.reused)
