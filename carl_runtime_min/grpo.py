"""GRPO and RLOO whose rewards see how each token was generated.

TRL hands reward functions text and token ids. These mixins add what CARL measures:
`token_logps` and `token_entropies` of exactly the sampled tokens, under the policy as
the trainer scores it. Compose one with the trainer:

    class Trainer(CoherentPolicy, GRPOTrainer): ...
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from carl_runtime_min.cascade import Cascade, damp_ties
from carl_runtime_min.field import order_parameter
from carl_runtime_min.fit import head_width
from carl_runtime_min.guards import correlation, nan_is_infinite
from carl_runtime_min.head import CheckedHead
from carl_runtime_min.remembering import remembering
from carl_runtime_min.resume import CHECKPOINT_HOOKS, ExactResume
from carl_runtime_min.rewards import coherence_components, weigh
from carl_runtime_min.run import Run

SAMPLES = 4  # completions recorded at a time
HOOKS = {
    **CHECKPOINT_HOOKS,
    "_get_train_sampler": "dataset",
    "_init_training_state": "max_steps, num_update_steps_per_epoch",
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_calculate_rewards": "inputs, prompts, completions, completion_ids_list",
    "_get_per_token_logps_and_entropies": "model, input_ids, attention_mask, "
    "logits_to_keep, batch_size, compute_entropy",
}


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
        rewards = weigh(parts, mask, self.weights)  # [B]
        return [None if math.isnan(reward) else reward for reward in rewards.tolist()]


class SampledPolicy(CheckedHead, ExactResume):
    """Mixin: keeps what was sampled, bars infinite rewards, records samples."""

    reward_funcs: list[Any]
    tasks = slice(None)  # which rewards are the task's

    def record_in(self, run: Run, every: int, maximum: float | None = None) -> None:
        """Write samples to `run` at each `every`-th step.

        `maximum` is that of the weighted task rewards' sum, if bounded.
        """
        self.run, self.samples_every, self.maximum = run, every, maximum
        self.reward_funcs = list(map(nan_is_infinite, self.reward_funcs))

    def counters(self) -> dict[str, Any]:
        states = {name: one.state_dict() for name, one in remembering(self).items()}
        return {**super().counters(), "reward_states": deepcopy(states)}

    def count_from(self, counters: dict[str, Any]) -> None:
        states = counters.pop("reward_states")
        for name, reward in remembering(self).items():
            if name in states:  # else an edited script has added it
                reward.load_state_dict(states[name])
        super().count_from(counters)

    def log_now(self, name: str, value: float | None) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(math.nan if value is None else value)

    def _get_train_sampler(self, *args: Any) -> Any:
        self.order = super()._get_train_sampler(*args)
        return self.order

    def _init_training_state(self, *args: Any) -> Any:
        epochs, steps = super()._init_training_state(*args)
        for _ in range(epochs):  # TRL draws the order of an epoch when it begins
            next(iter(self.order), None)
        return epochs, steps

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        self.prompt_ids, self.completion_ids = generated[:2]
        self.tool_mask = generated[2] if len(generated) > 3 else None  # RLOO has none
        return generated

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, Tensor]]:
        """The field of the first `count` completions (None: of all), by one forward.

        Dropout is off. Tokens of tools are context: they are scored and left out.
        """
        prompts = [torch.tensor(row) for row in self.prompt_ids[:count]]
        sampled = [torch.tensor(row).long() for row in self.completion_ids[:count]]
        pad = partial(pad_sequence, batch_first=True, padding_value=-1)
        ids = torch.cat([pad(prompts, padding_side="left"), pad(sampled)], 1)
        ids = ids.to(self.accelerator.device)  # [B, P + T]
        training = self.model.training
        self.model.eval()
        width = max(1, *map(len, sampled))
        scores = self.head_scores(ids.clamp(min=0), (ids >= 0).long(), width)
        self.model.train(training)
        return self.fields(*scores)

    def fields(self, log_probs: Tensor, entropy: Tensor) -> list[dict[str, Tensor]]:
        """Cut padded scores, [B, T] each, to the policy's tokens of each completion."""
        own, cut = self.own_tokens(), []
        for i, row in enumerate(torch.stack([log_probs, entropy], 1).float().cpu()):
            places = torch.tensor(own[i]).nonzero().squeeze(-1)
            field = {"token_logps": row[0, places], "token_entropies": row[1, places]}
            field["token_junctions"] = places.diff(prepend=places[:1] - 1) != 1
            cut.append(field)
        return cut

    def own_tokens(self) -> list[list[int]]:
        """1 for a token that the policy drew, 0 for one of a tool."""
        return self.tool_mask or [[1] * len(row) for row in self.completion_ids]

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> Tensor:
        from accelerate.utils import gather_object

        rewards: Tensor = super()._calculate_rewards(inputs, *batch)  # [global B, F]
        broken = rewards.isinf()
        self.log_now("rewards/non_finite", broken.any(1).sum().item())
        if broken.any():
            texts, names = gather_object(batch[1]), self.reward_func_names
            found = [
                {"reward": names[j], "sample": i, "completion": texts[i]}
                for i, j in broken.nonzero().tolist()
            ]
            first = "reward {reward} of sample {sample}".format(**found[0])
            self.not_finite(first, found)
        rewards[broken] = math.nan
        self.completions, self.rewards = batch[1], rewards
        return rewards

    def log_rewards(self) -> None:
        """What tells no answers apart, and how rewards depend on the length."""
        rewards = self.rewards * self.reward_weights.to(self.rewards.device)
        scored = ~rewards.isnan().all(1)  # [global B]
        tokens = torch.tensor(list(map(sum, self.own_tokens())), device=rewards.device)
        lengths = self.accelerator.gather(tokens)[scored]
        total, each = rewards.nansum(1)[scored], self.rewards.T[:, scored]
        self.log_now("rewards/length_correlation", correlation(lengths, total))
        for name, values in zip(self.reward_func_names, each, strict=True):
            found = correlation(lengths, values)
            self.log_now(f"rewards/{name}/length_correlation", found)
        tasks = rewards[:, self.tasks].nansum(1).masked_fill(~scored, math.nan)
        groups = tasks.reshape(-1, self.num_generations)
        apart = (groups - groups.nanmean(1, True)).abs().nan_to_num().amax(1)
        self.log_now("rewards/tied_groups", (apart < 1e-6).float().mean().item())
        if self.maximum is not None:
            highest = tasks[scored] >= self.maximum - 1e-6 * abs(self.maximum)
            self.log_now("rewards/saturated", highest.float().mean().item())

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        step = self.state.global_step
        batch = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        if self.model.training:
            self.log_rewards()
        due = self.model.training and step % self.samples_every == 0
        for i, field in enumerate(self.score(SAMPLES) if due else ()):
            phi = order_parameter(field["token_entropies"], head_width(self.model))
            rewards = self.rewards[first + i].tolist()
            sample = {
                "step": step + 1,
                "prompt": inputs[i]["prompt"],
                "completion": self.completions[i],
                "token_ids": self.completion_ids[i],
                "rewards": dict(zip(self.reward_func_names, rewards, strict=True)),
                "phi": phi.tolist(),
                "p": field["token_logps"].exp().tolist(),
            }
            self.run.append("samples", sample)
        return batch


class CoherentPolicy(SampledPolicy):
    """Mixin: adds R_CARL to the task rewards once the cascade has opened.

    `reward_funcs` ends with the `CoherenceReward`; those before it are the task's.
    """

    cascade: Cascade
    tie_weight: float
    multi_objective_aggregation = "sum_then_normalize"  # as RLOO, which has no choice
    scale_rewards = "none"
    tasks = slice(-1)

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> Tensor:
        if not self.model.training:  # an evaluation is by the task alone
            return super()._calculate_rewards(inputs, *batch)
        cascade, step = self.cascade, self.state.global_step
        cascade.begin(step)
        if cascade.stage == "B":
            self.reward_weights[-1] = cascade.weight(step)
            rows = zip(inputs, self.batch_field(), strict=True)
            inputs = [{**row, **field} for row, field in rows]
        rewards = super()._calculate_rewards(inputs, *batch)
        tasks = rewards[:, :-1] * self.reward_weights[:-1].to(rewards.device)
        unscored = tasks.isnan().all(1)  # [global B]
        total = tasks.nansum(1).masked_fill(unscored, math.nan)
        metric = total.nanmean().item()
        if cascade.stage == "B":
            unscored |= rewards[:, -1].isnan()
            rewards[unscored] = math.nan
        cascade.observe(metric, step)
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        compared = tasks if apart else total[:, None]  # [global B, F - 1 or 1]
        self.compared = compared.masked_fill(unscored[:, None], math.nan)
        self.log_now("rewards/unscored", unscored.sum().item())
        self.log_now("cascade/metric", metric)
        self.log_now("cascade/threshold", cascade.threshold)
        self.log_now("cascade/opened_at", cascade.opened_at)
        self.log_now("carl/stage", float(cascade.stage == "B"))
        self.log_now("carl/weight", cascade.weight(step))
        return rewards

    told = False  # where the field comes from

    def tell(self, source: str, fields: list[Any], scored: list[Any]) -> float:
        """Record how far the field is from a pass of its own, in units of ln V."""
        names = ("token_logps", "token_entropies")
        pairs = zip(fields, scored, strict=True)
        gaps = [one[name] - other[name] for one, other in pairs for name in names]
        gap = torch.cat(gaps).abs().max().item() / math.log(head_width(self.model))
        self.run.summarise("run", field={"source": source, "difference": gap})
        self.told = True
        return gap

    def batch_field(self) -> list[dict[str, Tensor]]:
        """The field of every completion of this batch, on this rank."""
        fields = self.score()
        if not self.told:
            self.tell("plain logits" if self.plain_head else "pass", fields, fields)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        if self.mask_truncated_completions:  # those have no say, thus no field
            for tokens, field in zip(self.completion_ids, fields, strict=True):
                if tokens[-1] not in ends:
                    field["token_entropies"].fill_(math.nan)
        return fields

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        cascade, compared = self.cascade, self.compared
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        if cascade.stage == "B" and (apart or self.scale_rewards == "group"):
            ramp = cascade.weight(self.state.global_step) / cascade.carl_weight
            every = torch.ones(len(compared), device=compared.device)
            factor = ramp * self.tie_weight
            scale = damp_ties(every, compared, self.num_generations, factor)
            first = self.accelerator.process_index * len(inputs)
            batch["advantages"] *= scale[first : first + len(inputs)]
        return batch


class ReusedScores(CoherentPolicy):
    """Takes the field from TRL's own scoring pass, which comes before the rewards.

    TRL scores first in RLOO, where samples may be older than the policy, or vLLM drew
    them; a pass of the reference model comes later. Of no use is one with dropout on.
    """

    reused: Any = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.reused = None
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

    def batch_field(self) -> list[dict[str, Tensor]]:
        config = self.model.config.get_text_config().to_dict()
        dropout = any(rate for name, rate in config.items() if "drop" in name)
        if dropout or self.reused is None:
            return super().batch_field()
        log_probs, entropy = self.reused
        scored = None if self.told else self.score()
        if self.unsound(entropy):
            return super().batch_field()
        fields = self.fields(log_probs, entropy)
        if scored:
            self.tell("reuse", fields, scored)
        return fields
