"""Upgrades as the whole project uses them: switched by the environment, listed in full, light to import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.workshop.tree import read_tree
from scratchlm.workshop.upgrade import LATE_CHAPTERS, enable, registered

ROOT = Path(__file__).parents[2]
PAIR = """
from scratchlm.workshop.upgrade import *
@upgradable
def f(): return "original"
@upgrade_of("__main__.f")
def g(): return "twin"
with upgrades_off(): inside = f()
print(f(), inside, enable(("json", "a_package_nobody_has")))
"""


def run(program: str, switch: str | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "SCRATCHLM_UPGRADES"}
    environment |= {} if switch is None else {"SCRATCHLM_UPGRADES": switch}
    return subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("switch", [None, "", "on"])
def test_upgrades_are_on_by_default(switch):
    out = run(PAIR, switch)
    assert out.startswith("twin original {'json': 'loaded', 'a_package_nobody_has': \"not loaded: No module")


@pytest.mark.parametrize("switch", ["off", "OFF", "0", "no", "false"])
def test_the_environment_switches_them_off(switch):
    assert run(PAIR, switch) == "original original {}"


def test_a_mistake_of_our_own_is_not_hidden():
    with pytest.raises(ModuleNotFoundError, match="scratchlm.nowhere"):
        enable(("scratchlm.nowhere",))


def test_the_registry_needs_the_standard_library_only():
    show = "; import sys; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    bare, ours = run("pass" + show), run("import scratchlm.workshop.upgrade" + show)
    assert set(ours.split()) - set(bare.split()) <= {"scratchlm"}


def test_the_list_of_late_chapters_is_what_the_front_matter_says():
    late = [tech for tech in read_tree(ROOT).techs.values() if tech.upgrades]
    assert sorted(LATE_CHAPTERS) == sorted(tech.module for tech in late), "mend LATE_CHAPTERS"
    loaded = enable()
    twins = registered()
    for tech in late:
        if loaded.get(tech.module) == "loaded":
            for name in tech.upgrades:
                assert name in twins, f"{tech.notebook}: upgrades: {name} is not upgradable"
                assert (twins[name] or tech.module).startswith(tech.module)
