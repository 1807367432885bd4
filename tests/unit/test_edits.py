"""Setting keys in a configuration file that a person maintains."""

import tomllib

from speakeasyd.config.edits import set_keys
from speakeasyd.config.reference import render_toml_file

VALUES = {"replicas": 3, "compute_type": "int8"}


def test_a_key_is_set_at_its_comment() -> None:
    before, after = (
        render_toml_file().splitlines(),
        set_keys(render_toml_file(), "workers", VALUES).splitlines(),
    )
    changed = {old: new for old, new in zip(before, after, strict=True) if old != new}
    assert changed == {
        "# replicas = 0": "replicas = 3",
        '# compute_type = "auto"': 'compute_type = "int8"',
    }


def test_an_existing_value_is_replaced() -> None:
    text = '# mine\n[workers]\nreplicas = 1  # for now\ndevice = "cpu"\n\n[recovery]\nreplicas = "not this one"\n'
    after = set_keys(text, "workers", VALUES)
    assert tomllib.loads(after)["workers"] == {"device": "cpu", **VALUES}
    assert after.startswith("# mine\n")
    assert after.endswith('[recovery]\nreplicas = "not this one"\n')


def test_a_missing_table_is_added() -> None:
    assert tomllib.loads(set_keys("[log]\nlevel = 'debug'\n", "workers", VALUES)) == {
        "log": {"level": "debug"},
        "workers": VALUES,
    }
