"""The table of cards, against figures that were typed from other sources than the table."""

from __future__ import annotations

import pytest

from module_utils.gpu_partition.models import Model, UnknownModelError, find_model, model_for, models

CUT = [model for model in models().values() if model.supports_mig]
WHOLE = [model for model in models().values() if not model.supports_mig]
PROFILES = [(model, profile) for model in CUT for profile in model.profiles.values()]

# nvidia-smi mig -lgipp, as the MIG User Guide shows it for an A100 and public captures for an H100 80 GB and an H100
# NVL: {starts}:size, the limit from -lgip, and the compute slices from the name.
EIGHT = {
    "1g": ((0, 1, 2, 3, 4, 5, 6), 1, 7, 1),
    "1g+me": ((0, 1, 2, 3, 4, 5, 6), 1, 1, 1),
    "1g double": ((0, 2, 4, 6), 2, 4, 1),
    "2g": ((0, 2, 4), 2, 3, 2),
    "3g": ((0, 4), 4, 2, 3),
    "4g": ((0,), 4, 1, 4),
    "7g": ((0,), 8, 1, 7),
}
NAMES_OF_EIGHT = {
    "A100-40GB": ("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
    "A100-80GB": ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    "H100-80GB": ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    "H100-94GB": ("1g.12gb", "1g.12gb+me", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb"),
    "H200-141GB": ("1g.18gb", "1g.18gb+me", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"),
    "B200-180GB": ("1g.23gb", "1g.23gb+me", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"),
}
# videoflow/videoflow tests/conformance/fixtures/mig_placements.json @a421630d, and captures of -lgipp for +me.
OTHERS = {
    "A30-24GB": {
        "1g.6gb": ((0, 1, 2, 3), 1, 4, 1),
        "1g.6gb+me": ((0, 1, 2, 3), 1, 1, 1),
        "2g.12gb": ((0, 2), 2, 2, 2),
        "2g.12gb+me": ((0, 2), 2, 1, 2),
        "4g.24gb": ((0,), 4, 1, 4),
    },
    "RTX-PRO-6000-96GB": {
        "1g.24gb": ((0, 3, 6, 9), 3, 4, 1),
        "1g.24gb+me": ((0, 3, 6, 9), 3, 1, 1),
        "2g.48gb": ((0, 6), 6, 2, 2),
        "4g.96gb": ((0,), 12, 1, 4),
    },
}
EXPECTED = OTHERS | {model: dict(zip(names, EIGHT.values(), strict=True)) for model, names in NAMES_OF_EIGHT.items()}
# GiB in the Memory column of nvidia-smi mig -lgip: public captures; where drivers differ, the smaller figure.
SHOWN_GIB = {
    "A30-24GB": "1g.6gb 5.81, 2g.12gb 11.69, 4g.24gb 23.44",
    "A100-40GB": "1g.5gb 4.75, 1g.10gb 9.62, 2g.10gb 9.62, 3g.20gb 19.50, 4g.20gb 19.50, 7g.40gb 39.25",
    "A100-80GB": "1g.10gb 9.50, 1g.20gb 19.50, 2g.20gb 19.50, 3g.40gb 39.25, 4g.40gb 39.25, 7g.80gb 79.00",
    "H100-80GB": "1g.10gb 9.75, 1g.20gb 19.62, 2g.20gb 19.62, 3g.40gb 39.50, 4g.40gb 39.50, 7g.80gb 79.25",
    "H100-94GB": "1g.12gb 10.75, 1g.24gb 21.62, 2g.24gb 21.62, 3g.47gb 46.38, 4g.47gb 46.38, 7g.94gb 93.12",
    "H200-141GB": "1g.18gb 16.00, 1g.35gb 32.25, 2g.35gb 32.25, 3g.71gb 69.50, 4g.71gb 69.50, 7g.141gb 140.00",
    "B200-180GB": "1g.23gb 20.50, 1g.45gb 44.25, 2g.45gb 44.25",
    "RTX-PRO-6000-96GB": "1g.24gb 23.12, 2g.48gb 47.38, 4g.96gb 95.00",
}


def test_the_table_has_the_cards_the_platform_promises() -> None:
    assert {model.name for model in CUT} == set(EXPECTED)
    assert {model.name for model in WHOLE} >= {
        "RTX-6000-24GB",
        "RTX-A6000-48GB",
        "RTX-6000-ADA-48GB",
        "RTX-A5000-24GB",
        "L40S-48GB",
        "L4-24GB",
        "T4-16GB",
        "V100-16GB",
        "V100-32GB",
        "RTX-4090-24GB",
        "RTX-3090-24GB",
    }


@pytest.mark.parametrize("model", CUT, ids=lambda model: model.name)
def test_profiles_are_those_of_other_sources(model: Model) -> None:
    found = {
        name: (profile.starts, profile.size, profile.limit, profile.compute) for name, profile in model.profiles.items()
    }
    assert found == EXPECTED[model.name]


@pytest.mark.parametrize(
    ("model", "profile", "gib"),
    [(model, *entry.split()) for model, row in SHOWN_GIB.items() for entry in row.split(", ")],
)
def test_memory_is_what_nvidia_smi_shows(model: str, profile: str, gib: str) -> None:
    # nvidia-smi rounds to two decimals.
    assert find_model(model).profiles[profile].memory_mib / 1024 == pytest.approx(float(gib), abs=0.0055)


@pytest.mark.parametrize(("model", "profile"), PROFILES, ids=lambda value: value.name)
def test_a_profile_is_possible(model: Model, profile: object) -> None:
    found = model.profiles[getattr(profile, "name", "")]
    assert found.starts == tuple(sorted(set(found.starts)))
    assert found.starts[-1] + found.size <= model.memory_slices
    assert found.compute <= model.compute_slices
    assert found.media == found.name.endswith("+me")
    assert found.name.startswith(f"{found.compute}g.")
    # The slice has less than its share of the card: the driver keeps some.
    share = model.memory_mib * found.size / model.memory_slices
    assert 0.85 * share < found.memory_mib < share
    # What the name promises is rounded up by the vendor.
    promised = int(found.name.split(".")[1].split("gb")[0])
    assert 0.85 * promised < found.memory_mib / 1024 < promised


@pytest.mark.parametrize("model", models().values(), ids=lambda model: model.name)
def test_every_model_names_its_sources(model: Model) -> None:
    assert model.sources
    assert all(len(source) > 20 for source in model.sources)
    assert any("NVIDIA" in source for source in model.sources)


def test_what_is_inferred_says_so() -> None:
    inferred = {model.name for model in models().values() if any("inferred: " in text for text in model.sources)}
    assert inferred == {"H200-141GB", "B200-180GB"}


def test_ampere_needs_a_reset_and_keeps_the_mode() -> None:
    changes = {model.name: (model.mode_change, model.mode_survives_reboot) for model in models().values()}
    ampere = {"A30-24GB", "A100-40GB", "A100-80GB"}
    assert {name for name, change in changes.items() if change == ("reset", True)} == ampere
    assert {name for name, change in changes.items() if change == ("immediate", False)} == set(EXPECTED) - ampere
    assert {name for name, change in changes.items() if change == ("", False)} == {model.name for model in WHOLE}


def test_a_card_without_mig_has_no_slices_at_all() -> None:
    assert {(model.compute_slices, model.memory_slices, len(model.profiles)) for model in WHOLE} == {(0, 0, 0)}


def test_no_name_belongs_to_two_models() -> None:
    names = [name.lower().removeprefix("nvidia ") for model in models().values() for name in set(model.nvml_names)]
    assert len(names) == len(set(names))


def test_find_model() -> None:
    assert find_model("A100-40GB").memory_mib == 40960
    assert find_model("RTX-6000-24GB").profiles == {}
    with pytest.raises(UnknownModelError, match=r"unknown model a100-40: did you mean A100-40GB\?"):
        find_model("a100-40")
    with pytest.raises(UnknownModelError, match=r"unknown model Voodoo2: known are A30-24GB, A100-40GB, "):
        find_model("Voodoo2")


@pytest.mark.parametrize(
    ("nvml_name", "memory_mib", "expected"),
    [
        # Names and memory from public captures of nvidia-smi.
        ("NVIDIA A100-SXM4-40GB", 40960, "A100-40GB"),
        ("NVIDIA A100-SXM4-40GB", 40536, "A100-40GB"),
        ("A100-PCIE-40GB", 40960, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", 81920, "A100-80GB"),
        ("NVIDIA A100-SXM4-80GB", 81251, "A100-80GB"),
        ("NVIDIA A800-SXM4-80GB", 81920, "A100-80GB"),
        ("NVIDIA A30", 24258, "A30-24GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "H100-80GB"),
        ("NVIDIA H100 NVL", 95830, "H100-94GB"),
        ("NVIDIA H200", 143771, "H200-141GB"),
        ("NVIDIA B200", 183359, "B200-180GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "RTX-PRO-6000-96GB"),
        ("Quadro RTX 6000", 24220, "RTX-6000-24GB"),
        # With ECC on.
        ("Quadro RTX 6000", 22698, "RTX-6000-24GB"),
        ("NVIDIA RTX A6000", 49140, "RTX-A6000-48GB"),
        ("NVIDIA RTX A6000", 46068, "RTX-A6000-48GB"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "RTX-6000-ADA-48GB"),
        ("Tesla V100-SXM2-32GB", 32510, "V100-32GB"),
        ("Tesla T4", 15109, "T4-16GB"),
    ],
)
def test_model_of_a_real_card(nvml_name: str, memory_mib: int, expected: str) -> None:
    found = model_for(nvml_name, memory_mib)
    assert found is not None
    assert found.name == expected


def test_memory_may_differ_by_a_tenth() -> None:
    assert [model_for("NVIDIA A100-SXM4-40GB", mib) is not None for mib in (36863, 36864, 45056, 45057)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("nvml_name", "memory_mib"),
    [("NVIDIA Unheard 9000", 40960), ("", 0), ("NVIDIA A100-SXM4-40GB", 20480), ("NVIDIA H200", 81559)],
)
def test_no_model_for_an_unknown_card_or_a_share_of_one(nvml_name: str, memory_mib: int) -> None:
    assert model_for(nvml_name, memory_mib) is None
