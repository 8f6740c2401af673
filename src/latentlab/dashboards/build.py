"""The same sections of panels as a saved workspace and as a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from latentlab.dashboards.sections import RUNS, STEP, Section, sections

# The filters of the command line.
FILTERS: Mapping[str, Any] = {
    "data": expr.Config("names.value.data"),
    "model": expr.Config("names.value.model"),
    "group": expr.Metric("Group"),
}
# The columns of the table of runs.
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
class Project:
    """A W&B project, and the runs in it that a dashboard shows.

    Attributes:
        entity: the user or team.
        name: the name of the project.
        only: the values that runs are filtered by, under the names of FILTERS.
    """

    entity: str
    name: str
    only: Mapping[str, str]

    @property
    def filters(self) -> Any:
        conditions = [FILTERS[name].isin([value]) for name, value in self.only.items()]
        return expr.And(*conditions) if conditions else ""


def workspace(project: Project, name: str, linked: bool = True) -> ws.Workspace:
    """Return a saved view of the project. `linked` has no effect, because no server is asked."""
    return ws.Workspace(
        entity=project.entity,
        project=project.name,
        name=name,
        sections=[_workspace_section(section) for section in sections()],
        settings=ws.WorkspaceSettings(x_axis=STEP, smoothing_type="none", max_runs=RUNS),
        runset_settings=ws.RunsetSettings(filters=project.filters, pinned_columns=list(COLUMNS)),
    )


def report(project: Project, name: str, linked: bool) -> wr.Report:
    """Return a report with a heading, a text and a grid of panels for each section.

    Args:
        project: the project of the report.
        name: the title.
        linked: True to read runs by the project's id, for which the server is asked, False to read them from the
            project that the report is saved in.
    """
    owner = (project.entity, project.name) if linked else ("", "")
    blocks: list[Any] = [wr.TableOfContents()]
    for section in sections():
        runs = wr.Runset(*owner, name="runs", filters=project.filters)
        grid = wr.PanelGrid(runsets=[runs], panels=_arranged(section.panels))
        blocks += [wr.H2(text=section.name), wr.P(text=section.text), grid]
    return wr.Report(
        entity=project.entity,
        project=project.name,
        title=name,
        description="Bounds in nats per example; made by latentlab dashboards",
        blocks=blocks,
        width="fluid",
    )


KINDS: Mapping[str, Callable[..., ws.Workspace | wr.Report]] = {"workspace": workspace, "report": report}


def spec(dashboard: ws.Workspace | wr.Report) -> str:
    """Return the JSON that the server would get."""
    return dashboard._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)


def _workspace_section(section: Section) -> ws.Section:
    rows = -(-len(section.panels) // 2)
    return ws.Section(
        name=section.name,
        panels=list(section.panels),
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=2, rows=rows),
        panel_settings=ws.SectionPanelSettings(x_axis=STEP),
    )


def _arranged(panels: Sequence[Any]) -> list[Any]:
    for index, panel in enumerate(panels):
        row, right = divmod(index, 2)
        panel.layout = wr.Layout(x=WIDTH * right, y=HEIGHT * row, w=WIDTH, h=HEIGHT)
    return list(panels)
