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
from carl_runtime_min.errors import CarlError
from carl_runtime_min.field import order_parameter
from carl_runtime_min.fit import head_width
from carl_runtime_min.rewards import carl_reward, coherence_components
from carl_runtime_min.run import RunDir

SAMPLES = 4  # completions recorded at a time
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
        found = ", ".join(
            list(inspect.signature(method).parameters)[1:] if method else []
        )
        if not f"{found}, ".startswith(f"{expected}, "):
            raise CarlError(
                f"TRL's {trainer_class.__name__}.{name} takes ({found})",
                remedy="install the TRL version pinned at the top of this script",
                exit_code=4,
            )


class CoherenceReward:
    """R_CARL as a TRL reward function: None for each row while no field is given.

    `width` is V, the rows of the output head; `weights` are those of the components.
    """

    __name__ = "carl"

    def __init__(self, width: int, weights: list[float]) -> None:
        self.width, self.weights = width, weights

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        if "token_logps" not in given:
            return [None] * len(completion_ids)
        pad = partial(pad_sequence, batch_first=True)
        mask = pad([torch.ones_like(row).bool() for row in given["token_logps"]])
        log_probs, joints = pad(given["token_logps"]), pad(given["token_junctions"])
        phi = order_parameter(pad(given["token_entropies"]), self.width)  # [B, T]
        parts = coherence_components(phi, log_probs, mask, joints)  # each [B]
        for name, values in zip(parts._fields, parts, strict=True):
            given["log_metric"](f"carl/{name}", values.nanmean().item())
        rewards = carl_reward(phi, log_probs, mask, self.weights, joints)  # [B]
        return [None if reward != reward else reward for reward in rewards.tolist()]


class SampledGRPO:
    """Mixin: keeps the sampled tokens, bars infinite rewards, records samples."""

    def record_in(self, run: RunDir, every: int) -> None:
        """Write samples to `run` at each `every`-th step."""
        self.run, self.samples_every = run, every

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        self.prompt_ids, self.completion_ids, self.tool_mask = generated[:3]
        return generated

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, torch.Tensor]]:
        """The field of the first `count` completions (None: of all), by one forward.

        Dropout is off. Tokens of tools are context: they are scored and left out.
        """
        prompts = [torch.tensor(row) for row in self.prompt_ids[:count]]
        sampled = [torch.tensor(row).long() for row in self.completion_ids[:count]]
        pad = partial(pad_sequence, batch_first=True, padding_value=-1)
        ids = torch.cat(
            [pad(prompts, padding_side="left"), pad(sampled)], 1
        )  # [B, P+T]
        ids, length = ids.to(self.accelerator.device), max(map(len, sampled))
        if not length:
            return self.policy_rows(torch.zeros(len(ids), 0), torch.zeros(len(ids), 0))
        training = self.model.training
        self.model.eval()
        try:
            log_probs, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model,
                ids.clamp(min=0),
                (ids >= 0).long(),
                length,
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
            )
        finally:
            self.model.train(training)
        return self.policy_rows(log_probs, entropy)

    def policy_rows(
        self, log_probs: torch.Tensor, entropy: torch.Tensor
    ) -> list[dict[str, torch.Tensor]]:
        """Cut padded scores, [B, T] each, into one field per completion.

        A field is `token_logps`, `token_entropies` and `token_junctions`, each of the
        length of the policy's own tokens, on the CPU.
        """
        fields = []
        rows = zip(log_probs.float().cpu(), entropy.float().cpu(), strict=True)
        for i, (row_log_probs, row_entropy) in enumerate(rows):
            own = (
                self.tool_mask[i]
                if self.tool_mask
                else [1] * len(self.completion_ids[i])
            )
            places = torch.tensor(own).nonzero().squeeze(-1)
            field = {"token_logps": row_log_probs[places]}
            field["token_entropies"] = row_entropy[places]
            field["token_junctions"] = places.diff(prepend=places[:1] - 1) != 1
            fields.append(field)
        return fields

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(inputs, *batch)  # [B, F]
        broken = rewards.isinf()
        self.log_now("rewards/infinite", broken.any(1).sum().item())
        rewards[broken] = torch.nan
        self.completions, self.rewards = batch[1], rewards
        return rewards

    def log_now(self, name: str, value: float) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(value)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch, step = (
            super()._generate_and_score_completions(inputs),
            self.state.global_step,
        )
        if step % self.samples_every == 0:
            first = self.accelerator.process_index * len(inputs)
            for i, field in enumerate(self.score(SAMPLES)):
                rewards = self.rewards[first + i].tolist()
                entropy, width = field["token_entropies"], head_width(self.model)
                sample = {"step": step + 1, "prompt": inputs[i]["prompt"]}
                sample["completion"] = self.completions[i]
                sample["token_ids"] = self.completion_ids[i]
                sample["rewards"] = dict(
                    zip(self.reward_func_names, rewards, strict=True)
                )
                sample["phi"] = order_parameter(entropy, width).tolist()
                sample["p"] = field["token_logps"].exp().tolist()
                self.run.append("samples", sample)
        return batch


class CoherentGRPO(SampledGRPO):
    """Mixin: adds R_CARL to the task rewards once the cascade has opened.

    `reward_funcs` ends with the `CoherenceReward`; those before it are the task's.
    """

    cascade: Cascade
    tie_weight: float

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> torch.Tensor:
        step, weights = self.state.global_step, self.reward_weights
        self.cascade.begin(step)
        if self.cascade.stage == "B":
            weights[-1] = self.cascade.weight(step)
            fields = zip(inputs, self.batch_field(), strict=True)
            inputs = [{**row, **field} for row, field in fields]
        rewards = super()._calculate_rewards(inputs, *batch)
        tasks, unscored = rewards[:, :-1], rewards[:, :-1].isnan().all(1)
        total = (tasks * weights[:-1].to(tasks.device)).nansum(1)  # [global B]
        metric = total.masked_fill(unscored, torch.nan).nanmean().item()
        if self.cascade.stage == "B":
            unscored |= rewards[:, -1].isnan()
            rewards[unscored] = torch.nan
        self.task_total = total.masked_fill(unscored, torch.nan)
        self.cascade.observe(metric, step)
        self.log_now("rewards/unscored", unscored.sum().item())
        self.log_now("cascade/metric", metric)
        threshold, opened = self.cascade.threshold, self.cascade.opened_at
        self.log_now("cascade/threshold", torch.nan if threshold is None else threshold)
        self.log_now("cascade/opened_at", torch.nan if opened is None else opened)
        self.log_now("carl/stage", float(self.cascade.stage == "B"))
        self.log_now("carl/weight", self.cascade.weight(step))
        return rewards

    def batch_field(self) -> list[dict[str, torch.Tensor]]:
        """The field of every completion of this batch, on this rank."""
        fields = self.score()
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        if self.mask_truncated_completions:  # those have no say, thus no field
            for tokens, field in zip(self.completion_ids, fields, strict=True):
                if tokens[-1] not in ends:
                    field["token_entropies"].fill_(torch.nan)
        return fields

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        ties = self.scale_rewards == "group"
        ties |= self.multi_objective_aggregation == "normalize_then_sum"
        if ties and self.cascade.stage == "B":
            ramp = (
                self.cascade.weight(self.state.global_step) / self.cascade.carl_weight
            )
            every = torch.ones_like(self.task_total)  # [global B]
            scale = damp_ties(
                every, self.task_total, self.num_generations, ramp * self.tie_weight
            )
            first = self.accelerator.process_index * len(inputs)
            batch["advantages"] *= scale[first : first + len(inputs)]
        return batch


class ReusedScores(CoherentGRPO):
    """Takes the field from the pass in which TRL itself scores before the rewards.

    TRL runs that pass first whenever it runs it at all (the samples may be older than
    the policy, or vLLM drew them); a pass of the reference model comes after it.
    """

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.reused: Any = None
        return super()._generate_and_score_completions(inputs)

    def _get_per_token_logps_and_entropies(
        self, *args: Any, compute_entropy: bool = False, **kwargs: Any
    ) -> Any:
        first = self.reused is None and not torch.is_grad_enabled()
        kwargs["compute_entropy"] = compute_entropy or first
        scores = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if first:
            self.reused = scores[:2]
        return scores

    def batch_field(self) -> list[dict[str, torch.Tensor]]:
        if self.reused is None:
            raise CarlError("TRL did not score the samples before the rewards")
        settings = self.model.config.get_text_config().to_dict().items()
        if any(rate for name, rate in settings if "drop" in name):
            return super().batch_field()  # TRL's pass had its dropout on
        return self.policy_rows(*self.reused)
