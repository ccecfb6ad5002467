"""What operators write in gpu_partition_cards: what it becomes, and every mistake found at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.gpu_partition.card import Card
from module_utils.gpu_partition.cards import (
    DEFAULT_TRAINING_MEMORY,
    CardProblem,
    check_training_memory,
    parse_cards,
)
from module_utils.gpu_partition.models import find_model, models
from module_utils.gpu_partition.placement import reasons_against

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY = DEFAULT_TRAINING_MEMORY
UUID = "GPU-b614723c-e261-4605-066e-79daab4c00ff"


def one(text: str, memory: Mapping[str, int] = MEMORY) -> Card:
    """Read one card, written as an inventory has it, that must be right."""
    cards, problems = parse_cards([yaml.safe_load(text)], memory)
    assert problems == ()
    return cards[0]


def wrong(text: str, memory: Mapping[str, int] = MEMORY) -> list[CardProblem]:
    """Read one card that must be refused."""
    cards, problems = parse_cards([yaml.safe_load(text)], memory)
    assert cards == ()
    return list(problems)


def where(problems: list[CardProblem]) -> list[str]:
    return [problem.path.removeprefix("gpu_partition_cards[0]").removeprefix(".") for problem in problems]


CREMMA = """
- {model: A100-40GB, pci_address: "0000:17:00.0", backend: mig, slices: {2g.10gb: 1, 1g.5gb: 5}}
- {model: A100-40GB, pci_address: "0000:65:00.0", backend: mig,
   want: {segmentation_trainings: 1, recognition_trainings: max}}
- {model: RTX-6000-24GB, pci_address: "0000:ca:00.0", backend: none}
"""


def test_the_inventory_of_cremma() -> None:
    cards, problems = parse_cards(yaml.safe_load(CREMMA), MEMORY)
    assert problems == ()
    a100, rtx = find_model("A100-40GB"), find_model("RTX-6000-24GB")
    slices = {"2g.10gb": 1, "1g.5gb": 5}
    assert cards == (
        Card("gpu0", a100, "pci_address", "0000:17:00.0", "mig", slices),
        Card("gpu1", a100, "pci_address", "0000:65:00.0", "mig", slices),
        Card("gpu2", rtx, "pci_address", "0000:ca:00.0", "none", {}, 1),
    )


@pytest.mark.parametrize(
    ("written", "kind", "address"),
    [
        ('pci_address: "0000:CA:00.0"', "pci_address", "0000:ca:00.0"),
        ('pci_address: "00000000:ca:00.0"', "pci_address", "0000:ca:00.0"),
        ('pci_address: "ca:00.0"', "pci_address", "0000:ca:00.0"),
        ('pci_address: "00010001:ca:00.0"', "pci_address", "10001:ca:00.0"),
        (f"uuid: {UUID.upper().replace('GPU', 'GPU')}", "uuid", UUID),
        ("index: 0", "index", "0"),
    ],
)
def test_addresses_are_written_in_one_way(written: str, kind: str, address: str) -> None:
    card = one(f"{{model: T4-16GB, {written}}}")
    assert (card.address_kind, card.address) == (kind, address)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        # Without quotes YAML reads 1020.0.
        ("pci_address: 0000:17:00.0", "pci_address"),
        ('pci_address: "17:00"', "pci_address"),
        ('pci_address: "0000:17:00.9"', "pci_address"),
        ('pci_address: "017:17:00.0"', "pci_address"),
        ("pci_address: ", "pci_address"),
        ("uuid: MIG-b614723c-e261-4605-066e-79daab4c00ff", "uuid"),
        ("uuid: GPU-0", "uuid"),
        ("index: -1", "index"),
        ('index: "0"', "index"),
        ("index: true", "index"),
        ("name: gpu0", ""),
        (f'index: 0, uuid: {UUID}, pci_address: "0000:17:00.0"', ""),
    ],
)
def test_wrong_addresses(written: str, path: str) -> None:
    assert where(wrong(f"{{model: T4-16GB, {written}}}")) == [path]


def test_an_address_that_yaml_took_for_a_number_is_explained() -> None:
    (problem,) = wrong("{model: T4-16GB, pci_address: 0000:17:00.0}")
    assert problem.found == "1020.0"
    assert "in quotes" in problem.mend


def test_a_product_name_that_the_table_lacks() -> None:
    model = one("{model: T4-16GB, index: 0, product: NVIDIA T4G}").model
    assert (model.name, "NVIDIA T4G" in model.nvml_names) == ("T4-16GB", True)
    assert where(wrong("{model: T4-16GB, index: 0, product: 4}")) == ["product"]
    assert where(wrong("{model: other, memory_mib: 16384, index: 0, product: NVIDIA T4G}")) == ["product"]


@pytest.mark.parametrize("name", ["gpu0", "A", "left-card", "x" * 32])
def test_names(name: str) -> None:
    assert one(f"{{model: T4-16GB, index: 0, name: {name}}}").name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a.b", "a b", "é", "x" * 33, "../x", "7"])
def test_wrong_names(name: str) -> None:
    # A 7 without quotes is a number.
    written = name if name == "7" else f'"{name}"'
    assert where(wrong(f"{{model: T4-16GB, index: 0, name: {written}}}")) == ["name"]


@pytest.mark.parametrize(
    ("written", "workers", "sharing", "memory", "threads"),
    [
        ("workers: 5", 5, "time", 0, 0),
        ("workers: 4, sharing: mps", 4, "mps", 6144, 25),
        ("workers: 3, sharing: mps, mps_memory_mib: 5000, mps_thread_percentage: 60", 3, "mps", 5000, 60),
        ("sharing: mps", 1, "mps", 24576, 100),
        # Just enough.
        ("workers: 5, sharing: mps, mps_memory_mib: 4800", 5, "mps", 4800, 20),
        ("workers: 2, sharing: mps, mps_memory_mib: 12288, mps_thread_percentage: 1", 2, "mps", 12288, 1),
        ("workers: 2, sharing: mps, mps_thread_percentage: 100", 2, "mps", 12288, 100),
    ],
)
def test_sharing(written: str, workers: int, sharing: str, memory: int, threads: int) -> None:
    card = one(f"{{model: RTX-6000-24GB, index: 0, backend: none, {written}}}")
    assert (card.workers, card.sharing) == (workers, sharing)
    assert (card.mps_memory_mib, card.mps_thread_percentage) == (memory, threads)


@pytest.mark.parametrize(
    ("written", "paths"),
    [
        # 24576 MiB: five recognition trainings of 4800 fit, six do not.
        ("workers: 6", ["workers"]),
        ("workers: 0", ["workers"]),
        ('workers: "2"', ["workers"]),
        ("workers: 2.0", ["workers"]),
        ("workers: true", ["workers"]),
        ("sharing: slices", ["sharing"]),
        ("workers: 6, sharing: mps", ["mps_memory_mib"]),
        ("workers: 2, sharing: mps, mps_memory_mib: 4799", ["mps_memory_mib"]),
        ("workers: 2, sharing: mps, mps_memory_mib: 12289", ["mps_memory_mib"]),
        ("sharing: mps, mps_thread_percentage: 101", ["mps_thread_percentage"]),
        ("sharing: mps, mps_thread_percentage: 0", ["mps_thread_percentage"]),
        ("mps_memory_mib: 5000, mps_thread_percentage: 50", ["mps_memory_mib", "mps_thread_percentage"]),
        ("sharing: mps, workers: 49", ["workers"]),
    ],
)
def test_wrong_sharing(written: str, paths: list[str]) -> None:
    assert where(wrong(f"{{model: RTX-6000-24GB, index: 0, {written}}}")) == paths


def test_two_trainings_that_just_fit() -> None:
    assert one("{model: other, memory_mib: 9600, index: 0, workers: 2}").workers == 2
    assert where(wrong("{model: other, memory_mib: 9599, index: 0, workers: 2}")) == ["workers"]


def test_as_many_workers_as_mps_has_clients() -> None:
    assert one("{model: other, memory_mib: 230400, index: 0, sharing: mps, workers: 48}").mps_thread_percentage == 2
    (problem,) = wrong("{model: other, memory_mib: 250000, index: 0, sharing: mps, workers: 49}")
    assert problem.wanted == "a whole number from 1 to 48"
    (problem,) = wrong("{model: T4-16GB, index: 0, workers: 0}")
    assert problem.wanted == "a whole number from 1"


def test_limits_of_mps_say_what_would_fit() -> None:
    (problem,) = wrong("{model: RTX-6000-24GB, index: 0, sharing: mps, workers: 2, mps_memory_mib: 12289}")
    assert problem == CardProblem(
        "gpu_partition_cards[0].mps_memory_mib",
        "12289 MiB for each of 2 workers",
        "at most 12288 MiB: 2 workers share 24576 MiB",
        "lower workers or mps_memory_mib",
    )


def test_the_budget_of_workers_that_take_turns_says_how_many_fit() -> None:
    (problem,) = wrong("{model: RTX-6000-24GB, index: 0, workers: 6}")
    assert problem == CardProblem(
        "gpu_partition_cards[0].workers",
        "6",
        "workers whose trainings fit into the card's 24576 MiB together",
        "6 recognition trainings take 28800 MiB: at most 5 workers fit",
    )


@pytest.mark.parametrize(
    ("written", "vgpu_type", "count"),
    [
        ("vgpu_type: A100-10C", "A100-10C", 1),
        ("vgpu_type: RTX6000-8C, vgpu_count: 3", "RTX6000-8C", 3),
        ("vgpu_type: H200-1-18CME", "H200-1-18CME", 1),
        ("vgpu_type: nvidia-472, vgpu_count: 4", "nvidia-472", 4),
        ("vgpu_type: 472", "nvidia-472", 1),
    ],
)
def test_vgpu(written: str, vgpu_type: str, count: int) -> None:
    card = one(f"{{model: A100-40GB, index: 0, backend: vgpu, {written}}}")
    assert (card.vgpu_type, card.vgpu_count, card.workers, card.slices) == (vgpu_type, count, 0, {})


@pytest.mark.parametrize(
    ("written", "paths"),
    [
        ("vgpu_count: 1", ["vgpu_type"]),
        ("vgpu_type: fast", ["vgpu_type"]),
        ("vgpu_type: -1", ["vgpu_type"]),
        ("vgpu_type: A100-10C, vgpu_count: 0", ["vgpu_count"]),
        ("vgpu_type: A100-10C, workers: 2, slices: {1g.5gb: 1}", ["workers", "slices"]),
    ],
)
def test_wrong_vgpu(written: str, paths: list[str]) -> None:
    assert where(wrong(f"{{model: A100-40GB, index: 0, backend: vgpu, {written}}}")) == paths


def test_a_card_that_is_not_in_the_table() -> None:
    card = one("{model: other, memory_mib: 16000, index: 0, workers: 3}")
    assert (card.model.name, card.model.memory_mib, card.model.supports_mig, card.workers) == ("other", 16000, False, 3)
    assert (card.model.compute_slices, card.model.memory_slices, card.vgpu_count) == (0, 0, 0)
    assert one("{model: other, memory_mib: 16000, index: 0, backend: vgpu, vgpu_type: A16-4C}").vgpu_type == "A16-4C"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("{model: other, index: 0}", ["memory_mib"]),
        ("{model: other, index: 0, memory_mib: much}", ["memory_mib"]),
        ("{model: other, index: 0, memory_mib: 4000}", ["workers"]),
        ("{model: other, index: 0, memory_mib: 40960, backend: mig, slices: {1g.5gb: 1}}", ["model"]),
        ("{model: T4-16GB, index: 0, memory_mib: 16000}", ["memory_mib"]),
        ("{index: 0}", ["model"]),
        ("{model: a100-40gb, index: 0}", ["model"]),
        ("{model: 100, index: 0}", ["model"]),
        ("{model: T4-16GB, index: 0, backend: mps}", ["backend"]),
        ("{model: T4-16GB, index: 0, backend: [mig]}", ["backend"]),
        ("{model: T4-16GB, index: 0, color: red}", [""]),
        ("{model: T4-16GB, index: 0, 7: red}", [""]),
    ],
)
def test_wrong_models_backends_and_keys(text: str, paths: list[str]) -> None:
    assert where(wrong(text)) == paths


def test_a_mistyped_model_is_guessed() -> None:
    (problem,) = wrong("{model: a100-40gb, index: 0}")
    assert (problem.found, problem.wanted) == ("'a100-40gb'", "a model of the table")
    assert "did you mean A100-40GB?" in problem.mend


@pytest.mark.parametrize(
    ("written", "paths"),
    [
        ("slices: {4g.20gb: 1, 1g.5gb: 4}", ["slices"]),
        # One problem for each reason: the limit and the compute slices.
        ("slices: {4g.20gb: 2}", ["slices", "slices"]),
        ("slices: {1g.6gb: 1}", ["slices"]),
        ("slices: {1g.5gb: many}", ["slices"]),
        ("slices: {1g.5gb: 0}", ["slices"]),
        ("slices: {}", ["slices"]),
        ("slices: [1g.5gb]", ["slices"]),
        ("slices: ", ["slices"]),
        ("want: {segmentation_trainings: 9}", ["want"]),
        ("want: {segmentation_trainings: all, recognition: 1}", ["want", "want"]),
        ("want: max", ["want"]),
        ("workers: 2", ["workers", ""]),
        ("slices: {1g.5gb: 7}, want: {recognition_trainings: max}", [""]),
        ("slices: {1g.5gb: 7}, sharing: mps", ["sharing"]),
    ],
)
def test_wrong_slices(written: str, paths: list[str]) -> None:
    assert where(wrong(f"{{model: A100-40GB, index: 0, backend: mig, {written}}}")) == paths


def test_what_is_wanted_is_shown_by_example() -> None:
    (problem,) = wrong("{model: A100-40GB, index: 0, backend: mig, slices: all}")
    assert problem.wanted == "a mapping such as {2g.10gb: 1, 1g.5gb: 5}"
    (problem,) = wrong("{model: A100-40GB, index: 0, backend: mig, want: all}")
    assert problem.wanted == "a mapping such as {segmentation_trainings: 1, recognition_trainings: max}"
    (problem,) = wrong("{model: A100-40GB, index: 0, backend: mig, want: all, slices: all}")
    assert problem.found == "both"
    (problem,) = wrong("{model: A100-40GB, index: 0, backend: mig}")
    assert problem.found == "neither"


def test_long_values_are_shortened() -> None:
    assert wrong(f"{{model: T4-16GB, index: 0, name: {'x' * 78}}}")[0].found == f"'{'x' * 78}'"
    assert wrong(f"{{model: T4-16GB, index: 0, name: {'x' * 79}}}")[0].found == f"'{'x' * 76}..."


def test_an_illegal_layout_has_its_reason() -> None:
    (problem,) = wrong("{model: A100-40GB, index: 0, backend: mig, slices: {4g.20gb: 1, 1g.5gb: 4}}")
    assert problem == CardProblem(
        "gpu_partition_cards[0].slices",
        "{'4g.20gb': 1, '1g.5gb': 4}",
        "a layout that the card can take",
        "4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices",
    )


def test_slices_that_are_too_small_for_any_training() -> None:
    text = "{model: A100-40GB, index: 0, backend: mig, slices: {2g.10gb: 1, 1g.5gb: 5}}"
    (problem,) = wrong(text, {"recognition": 4865, "segmentation": 9800})
    assert problem.mend.startswith("1g.5gb has 4864 MiB: ")
    assert problem.found == "2g.10gb + 5x 1g.5gb"
    assert one(text, {"recognition": 4864, "segmentation": 9800}).slices == {"2g.10gb": 1, "1g.5gb": 5}


def test_no_mig_on_a_card_without_it() -> None:
    (problem,) = wrong("{model: RTX-6000-24GB, index: 0, backend: mig, slices: {1g.5gb: 1}}")
    assert problem.wanted == "none or vgpu: RTX-6000-24GB has no MIG"


def test_slices_without_the_backend() -> None:
    (problem,) = wrong("{model: A100-40GB, index: 0, slices: {1g.5gb: 7}}")
    assert problem.mend == "set backend: mig, or remove slices"


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        ("[{model: T4-16GB, index: 0}, {model: T4-16GB, index: 0}]", "[1].index", "0"),
        (
            '[{model: T4-16GB, pci_address: "17:00.0"}, {model: T4-16GB, pci_address: "00000000:17:00.0"}]',
            "[1].pci_address",
            "0000:17:00.0",
        ),
        (f"[{{model: T4-16GB, uuid: {UUID}}}, {{model: T4-16GB, uuid: {UUID}}}]", "[1].uuid", UUID),
        ("[{model: T4-16GB, index: 0, name: a}, {model: T4-16GB, index: 1, name: a}]", "[1].name", "a"),
        ("[{model: T4-16GB, index: 0, name: gpu1}, {model: T4-16GB, index: 1}]", "[1].name", "gpu1"),
        # The second worker of gpu0 would be called gpu0-1.
        ("[{model: T4-16GB, index: 0, workers: 2}, {model: T4-16GB, index: 1, name: gpu0-1}]", "[0].name", "gpu0"),
    ],
)
def test_what_two_cards_claim(text: str, path: str, found: str) -> None:
    cards, problems = parse_cards(yaml.safe_load(text), MEMORY)
    assert len(cards) == 2
    assert [(problem.path, problem.found) for problem in problems] == [(f"gpu_partition_cards{path}", found)]


def test_kinds_of_addresses_may_be_mixed() -> None:
    text = f'[{{model: T4-16GB, index: 0}}, {{model: T4-16GB, uuid: {UUID}}}, {{model: T4-16GB, pci_address: "1:2.0"}}]'
    cards, problems = parse_cards(yaml.safe_load(text.replace("1:2.0", "01:02.0")), MEMORY)
    assert problems == ()
    assert [card.address_kind for card in cards] == ["index", "uuid", "pci_address"]


def test_all_problems_at_once() -> None:
    raw = yaml.safe_load("""
    - {model: A100-41GB, pci_address: 0000:17:00.0, backend: mig, slices: {4g.20gb: 1, 1g.5gb: 4}}
    - {model: A100-40GB, backend: mig, name: a_b, slices: {4g.20gb: 1, 1g.5gb: 4}, workers: 2}
    - not a card
    - {model: T4-16GB, index: 0}
    """)
    cards, problems = parse_cards(raw, {"recognition": 0, "segmentation": 9800, "training": 1})
    assert [card.name for card in cards] == ["gpu3"]
    assert [problem.path for problem in problems] == [
        "training_memory_mib",
        "training_memory_mib.recognition",
        "gpu_partition_cards[0].pci_address",
        "gpu_partition_cards[0].model",
        "gpu_partition_cards[1].name",
        "gpu_partition_cards[1]",
        "gpu_partition_cards[1].workers",
        "gpu_partition_cards[1].slices",
        "gpu_partition_cards[2]",
    ]
    assert all(problem.found and problem.wanted and problem.mend for problem in problems)


@pytest.mark.parametrize("raw", [None, {}, "cards", 3, {"model": "T4-16GB"}])
def test_no_list_at_all(raw: object) -> None:
    cards, problems = parse_cards(raw, MEMORY)
    assert (cards, [problem.path for problem in problems]) == ((), ["gpu_partition_cards"])


def test_no_card() -> None:
    assert parse_cards([], MEMORY) == ((), ())


def test_training_memory() -> None:
    # CREMMA's figures, which every slice of its layout has room for.
    assert DEFAULT_TRAINING_MEMORY == {"recognition": 4800, "segmentation": 9800}
    assert check_training_memory({"recognition": 1, "segmentation": 2}, "x") == (
        {"recognition": 1, "segmentation": 2},
        (),
    )
    memory, problems = check_training_memory([1], "x")
    assert (memory, [problem.path for problem in problems]) == (DEFAULT_TRAINING_MEMORY, ["x"])
    memory, problems = check_training_memory({"recognition": "5G"}, "x")
    assert memory == DEFAULT_TRAINING_MEMORY
    assert [(problem.path, problem.found) for problem in problems] == [
        ("x.recognition", "'5G'"),
        ("x.segmentation", "nothing"),
    ]


scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 60000), st.floats(), st.text(max_size=8))
words = st.sampled_from(
    ["max", "mig", "mps", "time", "vgpu", "none", "other", "gpu1", "0000:17:00.0", "A100-10C", UUID, *models()]
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars | words, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(scalars | words, inner, max_size=2)
)
KEYS = """model pci_address uuid index name backend slices want workers sharing mps_memory_mib mps_thread_percentage
vgpu_type vgpu_count memory_mib other"""
keys = st.sampled_from(KEYS.split())
anything = st.dictionaries(keys, values, max_size=8)
nearly_right = st.fixed_dictionaries(
    {"model": words, "index": st.integers(0, 3), "backend": st.sampled_from(["mig", "none", "vgpu"])},
    optional={
        "slices": st.dictionaries(st.sampled_from(["1g.5gb", "2g.10gb", "1g.10gb", "x"]), scalars, max_size=3),
        "want": st.dictionaries(st.sampled_from(["segmentation_trainings", "recognition_trainings", "x"]), values),
        "workers": st.integers(-1, 60),
        "sharing": st.sampled_from(["time", "mps"]),
        "memory_mib": st.integers(-1, 90000),
    },
)


@given(st.one_of(values, st.lists(anything | nearly_right, max_size=4)), st.one_of(values, st.just(dict(MEMORY))))
@settings(max_examples=150, deadline=None)
def test_nothing_an_operator_writes_makes_it_fail(raw: object, memory: Any) -> None:
    cards, problems = parse_cards(raw, memory)
    assert all(isinstance(text, str) and text for problem in problems for text in vars(problem).values())
    if not problems:
        assert isinstance(raw, list)
        assert len(cards) == len(raw)
    for card in cards:
        assert card.backend != "mig" or (card.slices and reasons_against(card.model, card.slices) == ())
        assert card.backend != "none" or card.workers >= 1
