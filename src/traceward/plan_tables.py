"""What `traceward plan` prints: models, memory by moment and part, tokens and hours."""

from __future__ import annotations

from rich.table import Table

from traceward.ablation.plan import GridPlan
from traceward.tables import facts_table, new_table
from traceward.workflows.plan import CONTEXT_GIB, GAPS, GIB, RunPlan


def plan_tables(found: RunPlan, *, gpu_memory: float | None) -> list[Table]:
    """The tables of a plan."""
    models = new_table("Models", ("", "model", "parameters", "weights", "adapter", "learn"))
    models.columns[1].justify = "left"
    for one in found.models:
        kind = "4 bit" if one["in_4bit"] else one["dtype"]
        rank = f"rank {one['adapter_rank']}" if one["adapter_rank"] else "–"
        models.add_row(one["part"], one["model"], f"{one['parameters']:,}", kind, rank, f"{one['learn']:,}")
    return [models, _memory(found), _tokens(found), _verdict(found, gpu_memory)]


def _memory(found: RunPlan) -> Table:
    share = f", everything that learns sharded over {found.room.gpus}" if found.room.sharded else ""
    caption = (
        f"Peaks, if every prompt has {found.room.prompt} tokens and every completion "
        f"{found.recipe.adversarial.max_new_tokens}."
    )
    parts = list(found.peak.parts)
    titles = ["KV cache" if part == "cache" else part for part in parts]
    table = new_table(f"Memory of one GPU in GiB{share}", ("", *titles, "total"), caption)
    for moment in found.moments:
        star = " *" if moment is found.peak else ""
        cells = [f"{moment.parts[part] / GIB:.2f}" for part in parts]
        table.add_row(moment.name + star, *cells, f"{moment.total / GIB:.2f}")
    return table


def _tokens(found: RunPlan) -> Table:
    table = new_table("Tokens at most", ("stage", "steps", "tokens per step", "tokens"))
    for stage in found.stages:
        table.add_row(stage.stage, f"{stage.steps:,}", f"{stage.tokens_per_step:,}", f"{stage.tokens:,}")
    return table


def _verdict(found: RunPlan, gpu_memory: float | None) -> Table:
    return facts_table("Plan", {"GPUs": found.room.gpus, **_needed(found, gpu_memory), "hours": _hours(found.hours)})


def _needed(found: RunPlan, gpu_memory: float | None) -> dict[str, str]:
    side = f", {found.recipe.run.workers} stages side by side" if found.recipe.run.workers > 1 else ""
    needed = f"{found.needed_gib:.1f} GiB (peak + {GAPS:.0%} for gaps{side} + {CONTEXT_GIB:g} GiB for CUDA)"
    return {
        "needed on each": needed,
        "fits": "not asked: --gpu-memory GIB" if gpu_memory is None else f"yes, in {gpu_memory:g} GiB",
    }


def _hours(hours: float | None) -> str:
    return "not known: --tokens-per-second" if hours is None else f"{hours:.1f}"


def grid_plan_tables(found: GridPlan, *, gpu_memory: float | None) -> list[Table]:
    """The same of a grid: a line for each row."""
    axes = list(found.grid.axes)
    caption = "Stages that rows share are in the tokens of each; all together count them once."
    table = new_table(f"Grid {found.grid.name}", (*axes, "seeds", "fullest moment", "needed, GiB", "tokens"), caption)
    for column in table.columns[: len(axes)]:
        column.justify = "left"
    for row in found.rows:
        plan = row.plan
        cells = [row.labels.get(axis, "–") for axis in axes]
        tokens = row.seeds * sum(stage.tokens for stage in plan.stages)
        table.add_row(*cells, str(row.seeds), plan.peak.name, f"{plan.needed_gib:.1f}", f"{tokens:,}")
    fullest = found.fullest.plan
    facts = {
        "combinations that cannot run": len(found.grid.removed),
        "stages that train, all": len(found.parts),
        "tokens, all": f"{found.tokens:,}",
        "GPUs": fullest.room.gpus,
        **_needed(fullest, gpu_memory),
        "hours": _hours(found.hours),
    }
    return [table, facts_table("Plan", facts)]
