"""TrainSpec: everything that decides what is trained, in one validated value."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from carl_bundle.spec.blocks import (
    Block,
    CarlSettings,
    DataSettings,
    Environment,
    EvalSettings,
    GateSettings,
    LoraSettings,
    ModelSettings,
    PushSettings,
    Reward,
)
from carl_bundle.spec.phases import (
    RUNS,
    DPOSettings,
    GRPOSettings,
    KTOSettings,
    ORPOSettings,
    PhaseSettings,
    RLOOSettings,
    SampledSettings,
    SFTSettings,
)
from carl_bundle.spec.text import AS_TUPLE, Identifier

Method = Literal["sft", "grpo", "rloo", "dpo", "kto", "orpo", "pipeline"]
Sharding = Literal["none", "fsdp2", "zero2", "zero3"]
NonFinite = Literal["stop", "skip"]
Reporter = Literal["none", "trackio", "wandb", "tensorboard"]


class TrainSpec(Block):
    """What to train, on what, and how. `TrainSpec()` is the embedded default.

    Field for field this is the `carl.yaml` of the documentation. A field that
    is None takes its value from `carl_bundle.spec.defaults.resolve`.

    Raises:
        SpecError: On construction, with every problem found.
    """

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "carl"
    method: Method = "pipeline"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    model: ModelSettings = ModelSettings.model_construct()
    data: DataSettings = DataSettings.model_construct()
    lora: LoraSettings | Literal[False] | None = None
    sharding: Sharding = "none"
    non_finite: NonFinite = "stop"
    sft: SFTSettings = SFTSettings.model_construct()
    grpo: GRPOSettings = GRPOSettings.model_construct()
    rloo: RLOOSettings = RLOOSettings.model_construct()
    dpo: DPOSettings = DPOSettings.model_construct()
    kto: KTOSettings = KTOSettings.model_construct()
    orpo: ORPOSettings = ORPOSettings.model_construct()
    rewards: Annotated[tuple[Reward, ...], AS_TUPLE] = ()
    tools: Annotated[tuple[Identifier, ...], AS_TUPLE] = ()
    environments: Annotated[tuple[Environment, ...], AS_TUPLE] = ()
    carl: CarlSettings = CarlSettings.model_construct()
    gate: GateSettings = GateSettings.model_construct()
    eval: EvalSettings = EvalSettings.model_construct()
    push: PushSettings = PushSettings.model_construct()
    report_to: Annotated[tuple[Reporter, ...], Field(min_length=1), AS_TUPLE] = (
        "none",
    )
    output_dir: Identifier | None = None
    stall_timeout: Annotated[float, Field(gt=0, le=1e6)] | None = None  # seconds
    dependencies: Annotated[tuple[Identifier, ...], AS_TUPLE] = ()

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_reporter(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_problems(
        cls, data: Any, handler: ModelWrapValidatorHandler[TrainSpec]
    ) -> TrainSpec:
        from carl_bundle.spec.rules import check

        try:
            spec = handler(data)
        except ValidationError as error:
            from carl_bundle.spec.problems import report

            raise report(error, data, handler) from error
        check(spec)
        return spec

    @property
    def phases(self) -> dict[str, PhaseSettings]:
        """The training phases of the method, in order."""
        return {name: getattr(self, name) for name in RUNS[self.method]}

    @property
    def sampled(self) -> SampledSettings | None:
        """The phase that samples completions and rewards them, if there is one."""
        found = (p for p in self.phases.values() if isinstance(p, SampledSettings))
        return next(found, None)

    @property
    def calls_tools(self) -> bool:
        """Whether the model is given tools, its own or those of environments."""
        return bool(self.tools or self.environments)

    @property
    def vision(self) -> bool:
        """Whether rows to train on have images."""
        data = [phase.data or self.data for phase in self.phases.values()]
        return any(source.has_images for block in data for source in block.sources)

    @property
    def run_dir(self) -> str:
        """Where the script writes: `output_dir`, or `runs/<name>`."""
        return self.output_dir or f"runs/{self.name}"

    def document(self) -> dict[str, Any]:
        """The spec as plain YAML/JSON values, without what equals a default."""
        return self.model_dump(mode="json", exclude_defaults=True)
