"""Plans: what a TOML file asks for, and a sentence where it asks for something that is not there."""

import pytest

from etl import plans


def test_every_plan_of_the_project_is_valid():
    for path in plans.FOLDER.glob("*.toml"):
        assert plans.load(path.stem).sweeps


def test_a_plan_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('train = false\n[[sweep]]\ncollector = "published"\ntitle = "papers"\npapers = ["chilka-nyu"]\n')
    plan = plans.load(str(path))
    assert (plan.name, plan.twins, plan.train) == ("mine", True, False)
    assert plan.sweeps == (plans.Sweep("published", "papers", {"papers": ["chilka-nyu"]}),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[sweep]]\ncollector = 'magic'\n", r"sweep of collector 'magic'\. Known: endpoint, "),
        ("[[sweep]\n", r"'bad\.toml' is not TOML"),
        ("twin = true\n", r"has no key \['twin'\]\. Known: name, sweep, twins, train"),
    ],
)
def test_a_plan_that_makes_no_sense_is_a_sentence(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        plans.load(str(path))
