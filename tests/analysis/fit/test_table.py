"""Tables of other people: what the four commands that read one refuse with its line, and which rows they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.chain import __main__ as chain
from analysis.fit import __main__ as fit
from analysis.fit.table import read_table
from analysis.forecast import __main__ as forecast
from analysis.isoflop import __main__ as isoflop
from nepa_scale.utils.errors import UserError

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], list[str]]] = {
    "fit": (fit.main, ["--law", "power", "--x", "params", "--y", "loss", "--bootstrap", "0"]),
    "chain": (chain.main, ["--x", "params", "--through", "loss", "--y", "tokens", "--bootstrap", "0"]),
    "isoflop": (isoflop.main, ["--c", "tokens", "--n", "params", "--y", "loss"]),
    "forecast": (forecast.main, ["--x", "params", "--y", "loss", "--at", "1e9"]),
}
ROWS = [f"{3 * n**-0.1:.5f},{n:g},{20 * n:g}" for n in np.geomspace(1e5, 1e8, 8)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("loss,params,tokens\n" + "".join(f"{row},\n" for row in ROWS), "line 2 has 4 cells and the header, line 1"),
        ("loss,params,tokens,\n" + "".join(f"{row}\n" for row in ROWS), "line 2 has 3 cells and the header, line 1"),
        ("loss,params,tokens\n" + "\n".join([*ROWS[:3], "2.2,1e7", *ROWS[3:]]), "line 5 has 2 cells"),
        ("loss,params,tokens\n" + "\n".join([*ROWS[:3], "# more", *ROWS[3:]]), "line 5 has 1 cell "),
        ("# my runs\nloss,params,tokens\n" + "\n".join(ROWS), "has 1 cell; comments are not read"),
        ("loss,params,tokens\n" + "\n".join([*ROWS[:3], "2,2,1,7e7,2e8", *ROWS[3:]]), "line 5 has 5 cells"),
        ("loss,params,tokens\n" + "\n".join([*ROWS, "loss,params,tokens", *ROWS]), "line 10 repeats the header"),
        ("loss,params,tokens, loss \n" + "\n".join(f"{row},1" for row in ROWS), "two columns are named 'loss'"),
        ("loss;params;tokens\n" + "\n".join(ROWS).replace(",", ";"), "separated by commas, not as in 'loss;params"),
        ("loss\tparams\ttokens\n" + "\n".join(ROWS).replace(",", "\t"), "separated by commas"),
        ("loss;params;tokens\n2,24;1e7;2e8\n", "separated by commas"),
        ('loss,params,tokens\n2.1,1e7,2e8\n"2,24","1,000","2,000"\n', "line 3, column '"),
        ('note,loss,params,tokens\n"a\n\nb",2.1,1e7,2e8\n\nc,2.1,x,x\n', "line 6, column '"),
        ("loss,params,tokens\n2.1,1e7,2e8\ninf,inf,inf\n", "line 3, column '"),
        ("loss,params,tokens\n2.1,1e7,2e8\n1e308,1e308,1e308\n", "line 3, column '"),
        ("loss,params,tokens\n2.1,1e7,2e8\n1e-300,1e-300,1e-300\n", "line 3, column '"),
        ('loss,params,tokens\n2.1,1e7,2e8\n2.1,"1e7,2e8\n', "line 3: unexpected end of data"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("\ufeff", "it is empty"),
        ("loss,params,tokens\n", "it names columns and has no rows"),
    ],
)
def test_a_table_that_could_be_misread_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: str, expected: str
) -> None:
    """One line with file and line of the fault, exit code 2, in every command: no number goes under another's name."""
    path = tmp_path / "runs.csv"
    path.write_text(content)
    main, words = COMMANDS[command]
    assert main([str(path), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert str(path) in shown.err and expected in shown.err


@pytest.mark.parametrize(
    "content",
    [
        "loss,params\n2.5,1e7\n2.0,\n",
        "\ufeffloss,params\n2.5,1e7\n2.0,\n",
        "loss,params\r\n2.5,1e7\r\n2.0,\r\n\r\n\r\n",
        "loss,params\r2.5,1e7\r2.0,\r",
        "\n loss , params \n\n 2.5 , 1e7 \n   \n2.0,nan\n\n",
        '"loss","params"\n"2.5","1e7"\n2.0,NA',
        ",loss,params\n0,2.5,1e7\n1,2.0,\n",
        "loss,params,,\n2.5,1e7,,\n2.0,,,\n",
    ],
)
def test_what_spreadsheets_and_pandas_write_is_read(tmp_path: Path, content: str) -> None:
    """Byte order marks, any line ends, spaces, quotes, empty lines, and columns without a name."""
    path = tmp_path / "runs.csv"
    path.write_bytes(content.encode())
    table = read_table(path)
    assert list(table.cells) == ["loss", "params"]
    np.testing.assert_array_equal(table.numbers("loss"), [2.5, 2.0])
    np.testing.assert_array_equal(table.numbers("params"), [1e7, np.nan])


def test_parquet_says_missing_as_csv_does(tmp_path: Path) -> None:
    """Missing values of every type are missing numbers, an index with a name is a column, a fault has its row."""
    rows = pd.DataFrame({"size": [1e7, 2e7, 3e7], "loss": [2.5, np.nan, 2.0], "seed": [0, 1, None]})
    rows = rows.assign(seed=rows["seed"].astype("Int64"), label=pd.Series(["a", None, "1e400"], dtype="str"))
    rows.set_index("size").to_parquet(tmp_path / "runs.parquet")
    rows.to_csv(tmp_path / "runs.csv", index=False)
    for name, place in (("runs.parquet", "row 3"), ("runs.csv", "line 4")):
        table = read_table(tmp_path / name)
        np.testing.assert_array_equal(table.numbers("size"), [1e7, 2e7, 3e7])
        np.testing.assert_array_equal(table.numbers("loss"), [2.5, np.nan, 2.0])
        np.testing.assert_array_equal(table.numbers("seed"), [0, 1, np.nan])
        assert list(table.texts("label")) == ["a", "", "1e400"]
        assert list(table.meeting("label!=a", "--where")) == [False, False, True]
        with pytest.raises(UserError, match=f"{place}, column 'label': '1e400' is out of range"):
            table.where(["label!=a"]).numbers("label")


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_rows_asked_for_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A table of several tasks gives what the rows of one give alone, though others hold no numbers."""
    alone, mixed = tmp_path / "alone.csv", tmp_path / "mixed.csv"
    alone.write_text("loss,params,tokens\n" + "\n".join(ROWS) + "\n")
    others = [f"{row},probe,0" for row in ROWS] + ["x,y,z,pretrain,0", "1,2,3,classify,1"]
    mixed.write_text("\n".join(["loss,params,tokens,task,seed", *others, *(f"{row},classify,0.0" for row in ROWS)]))
    main, words = COMMANDS[command]
    code = main([str(alone), *words])
    expected = capsys.readouterr()
    assert main([str(mixed), *words, "--where", "task=classify", "--where", "seed=0"]) == code
    shown = capsys.readouterr()
    assert shown.out == expected.out and shown.err == expected.err.replace(str(alone), str(mixed))
    assert main([str(mixed), *words, "--where", "task=segment"]) == 2
    assert "no row meets it (there are: probe, pretrain, classify)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("size=femto", [0]),
        ("size!=femto", [1, 3]),
        ("size = pico lr=0.003", [3]),
        ("seed=1", [1, 3]),
        ("seed==1.0", [1, 3]),
        ("seed!==1", [0]),
        ("size=<b>", []),
        ("size!=<b>", [0, 1, 3]),
        ("seed<1", [0]),
        ("seed>=0", [0, 1, 3]),
    ],
)
def test_conditions(tmp_path: Path, condition: str, expected: list[int]) -> None:
    """Words are equal as they stand, numbers by value; a missing cell meets nothing."""
    path = tmp_path / "runs.csv"
    path.write_text("size,seed\nfemto,0\npico,1\n,\npico lr=0.003,1.0\n")
    assert list(np.flatnonzero(read_table(path).meeting(condition, "--where"))) == expected
