"""Plans: what a TOML file asks for, and a sentence where it asks for something that is not there."""

import pytest

from collectors._plan import Sweep
from etl import plans
from warehouse import catalog


def test_every_plan_of_the_project_is_valid():
    for path in plans.FOLDER.glob("*.toml"):
        assert plans.load(path.stem).sweeps


def test_the_starter_plan_asks_encoders_for_a_forward_pass_alone():
    llms = catalog.llms()
    analytical = [sweep.options for sweep in plans.load("starter").sweeps if sweep.collector == "roofline"]
    for options in (one for one in analytical if "llm_id" in one):
        encoders = {name for name in options["llm_id"] if llms[name].architecture == "encoder"}
        assert not encoders or options["phase"] == ["forward"]
    swept = {name for options in analytical for name in options.get("llm_id", []) if options["phase"] == ["forward"]}
    assert swept == {name for name, llm in llms.items() if llm.architecture == "encoder"}


def written(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_plan_file_is_read(tmp_path):
    plan = plans.load(
        written(
            tmp_path, 'train = false\n[[sweep]]\ncollector = "published"\ntitle = "papers"\npapers = ["chilka-nyu"]\n'
        )
    )
    assert (plan.name, plan.twins, plan.train) == ("mine", True, False)
    assert plan.sweeps == (Sweep("published", "papers", {"papers": ["chilka-nyu"]}),)


def test_one_value_stands_for_a_list_of_one_where_a_collector_takes_several(tmp_path):
    text = "[[sweep]]\ncollector = 'roofline'\nllm_id = 'gpt2'\nbatch_size = 4\nruleset = 'default'\n"
    assert plans.load(written(tmp_path, text)).sweeps[0].options == {
        "llm_id": ["gpt2"],
        "batch_size": [4],
        "ruleset": "default",
    }


LOCAL = "[[sweep]]\ncollector = 'local_profile'\n"


def test_whole_numbers_are_numbers_and_tables_and_lists_pass(tmp_path):
    text = f"{LOCAL}budget_s = 20\nenergy = true\nbatch_size = [1, 2]\n"
    assert plans.load(written(tmp_path, text)).sweeps[0].options == {
        "budget_s": 20, "energy": True, "batch_size": [1, 2],
    }  # fmt: skip
    text = "[[sweep]]\ncollector = 'endpoint'\nurl = 'http://x'\nmodel = 'm'\nextra_body = {seed = 1}\n"
    assert plans.load(written(tmp_path, text)).sweeps[0].options["extra_body"] == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[sweep]]\ncollector = 'magic'\n", r"sweep of collector 'magic'\. Known: endpoint, "),
        ("[[sweep]\n", r"'bad\.toml' is not TOML"),
        ("twin = true\n", r"has no key 'twin'\. Known: name, sweep, twins, train"),
        ("twins = 'no'\n", r"twins must be true or false, not 'no'"),
        ("sweep = 3\n", r"sweep must be \[\[sweep\]\] tables, not 3"),
        ("sweep = ['a']\n", r"has the sweep 'a'\. A sweep is a table"),
        ("[[sweep]]\ncollector = 'roofline'\nllms = ['a']\n", r"roofline has no option 'llms'\. Known: llm_id, hard"),
        ("[[sweep]]\ncollector = 'local_profile'\nskip = []\n", r"local_profile has no option 'skip'"),
        ("[[sweep]]\ncollector = 'from_vllm'\n", r"from_vllm needs files\."),
        (f"{LOCAL}budget_s = 'a'\n", r"sweep 'local_profile': budget_s is a number, not 'a'\."),
        (f"{LOCAL}budget_s = true\n", r"budget_s is a number, not True"),
        (f"{LOCAL}batch_size = ['x']\n", r"batch_size is .*a list of one or more, each a whole number, not \['x'\]"),
        (f"{LOCAL}batch_size = [1.5]\n", r"batch_size is a whole number or a list .*, not \[1\.5\]"),
        (f"{LOCAL}batch_size = []\n", r"batch_size is .*a list of one or more, .*, not \[\]"),
        (f"{LOCAL}llm_id = 3\n", r"llm_id is a text or a list of one or more, each a text, not 3"),
        (f"{LOCAL}energy = 'yes'\n", r"energy is true or false, not 'yes'"),
        (f"{LOCAL}energy = 1\n", r"energy is true or false, not 1"),
        ("[[sweep]]\ncollector = 'local_profile'\nbudget_s = [1]\n", r"budget_s takes one value, not the list \[1\]"),
    ],
)
def test_a_plan_that_makes_no_sense_is_a_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        plans.load(written(tmp_path, text, "bad.toml"))
