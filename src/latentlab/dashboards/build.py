"""The same panels as a saved workspace and as a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from latentlab.dashboards.panels import RUNS, STEP, Group, groups

# What can be filtered by on the command line.
FILTERS: Mapping[str, Any] = {
    "data": expr.Config("names.value.data"),
    "model": expr.Config("names.value.model"),
    "group": expr.Metric("Group"),
}
COLUMNS = (
    "config:names.value.model",
    "config:names.value.data",
    "config:seed.value",
    "summary:best/val_elbo",
    "summary:test/elbo",
    "summary:test/nll",
    "run:group",
)
WIDTH, HEIGHT = 12, 9  # of a panel in a report, whose grid is 24 wide


@dataclass(frozen=True)
class Place:
    """Where a dashboard is saved, and what runs it shows.

    Attributes:
        entity: the user or team.
        project: its project.
        only: values that runs are filtered by, named as in FILTERS.
    """

    entity: str
    project: str
    only: Mapping[str, str]

    @property
    def filters(self) -> Any:
        """The conditions on runs, all of which hold."""
        conditions = [FILTERS[name].isin([value]) for name, value in self.only.items()]
        return expr.And(*conditions) if conditions else ""


def workspace(place: Place, name: str) -> ws.Workspace:
    """A saved view of the project with a section for each group of panels; asks no server."""
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=name,
        sections=[_section(group) for group in groups()],
        settings=ws.WorkspaceSettings(x_axis=STEP, smoothing_type="none", max_runs=RUNS),
        runset_settings=ws.RunsetSettings(filters=place.filters, pinned_columns=list(COLUMNS)),
    )


def report(place: Place, name: str, linked: bool) -> wr.Report:
    """A report with a heading, a text and the panels of each group.

    Args:
        place: where it is saved.
        name: its title.
        linked: whether runs are read from the project by its id, for which the server is asked; else from the
            project that the report lies in.
    """
    entity, project = (place.entity, place.project) if linked else ("", "")
    blocks: list[Any] = [wr.TableOfContents()]
    for group in groups():
        runs = wr.Runset(entity, project, name="runs", filters=place.filters)
        grid = wr.PanelGrid(runsets=[runs], panels=_arranged(group.panels))
        blocks += [wr.H2(text=group.name), wr.P(text=group.text), grid]
    return wr.Report(
        entity=place.entity,
        project=place.project,
        title=name,
        description="Bounds in nats per example; made by python -m latentlab.dashboards",
        blocks=blocks,
        width="fluid",
    )


def spec(dashboard: ws.Workspace | wr.Report) -> str:
    """What is sent to the server, as JSON."""
    return dashboard._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)


def _section(group: Group) -> ws.Section:
    rows = -(-len(group.panels) // 2)
    return ws.Section(
        name=group.name,
        panels=list(group.panels),
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=2, rows=rows),
        panel_settings=ws.SectionPanelSettings(x_axis=STEP),
    )


def _arranged(panels: Sequence[Any]) -> list[Any]:
    for index, panel in enumerate(panels):
        row, right = divmod(index, 2)
        panel.layout = wr.Layout(x=WIDTH * right, y=HEIGHT * row, w=WIDTH, h=HEIGHT)
    return list(panels)
