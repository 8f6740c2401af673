"""The notebook in docs/, whose cells run in their order."""

import json

import matplotlib.figure
from commands import ROOT

NOTEBOOK = ROOT / "docs" / "exercise.ipynb"


def code() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # in git, a notebook has none
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_cells_of_the_notebook_run_in_their_order(capsys):
    found: dict = {}
    for source in code():
        exec(source.replace("trainer.max_epochs=30", "trainer.max_epochs=1"), found)
    assert "did you mean mog_vae?" in capsys.readouterr().out
    assert abs(found["results"]["test/nll"] + found["arrays"]["log_px"].mean()) < 1e-9
    assert isinstance(found["figure"], matplotlib.figure.Figure)
