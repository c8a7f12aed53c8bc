"""ΔW of methods that rotate, scale or read the base weight, against peft's merge in float64 minus the original base."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.errors import CorruptFileError, SpectraError, UnsupportedMethodError
from spectra.runs.directory import Snapshot
from spectra.weights.readers.refused import REFUSED
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import READERS, Updates, open_updates
from tests.builders import TARGETS, write_model
from tests.weights.conftest import change_file, make_adapter

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# What a few rounding errors of float64 leave of an update a thousand times smaller than W.
EXACT = 1e-12
ALL, QKV, FFN = {"target_modules": TARGETS}, {"target_modules": ["q_proj", "v_proj"]}, ["down_proj"]
EMBEDDED = {"target_modules": ["embed_tokens", "v_proj"]}
CONV = {"target_modules": ["c_attn", "c_proj", "c_fc"]}

# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "ia3": ("IA3Config", {**ALL, "feedforward_modules": FFN}, "llama", 32),
    "ia3 with biases": ("IA3Config", {**ALL, "feedforward_modules": FFN}, "biased", 32),
    "ia3 of Conv1D": ("IA3Config", {**CONV, "feedforward_modules": ["c_fc"]}, "gpt2", 32),
    "norms": (
        "LNTuningConfig",
        {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm"]},
        "llama",
        0,
    ),
    "norms with biases": ("LNTuningConfig", {"target_modules": ["ln_1", "ln_f"]}, "gpt2", 0),
    "norm tuning of a matrix": ("LNTuningConfig", {"target_modules": ["norm", "q_proj"]}, "biased", 32),
    "norm tuning of Conv1D": ("LNTuningConfig", {"target_modules": ["ln_1", "c_attn", "c_proj"]}, "gpt2", 32),
    "oft": ("OFTConfig", {**ALL, "oft_block_size": 8}, "llama", 32),
    "oft by number of blocks": ("OFTConfig", {**ALL, "r": 4, "oft_block_size": 0}, "llama", 32),
    "oft in one block": ("OFTConfig", {**ALL, "r": 1, "oft_block_size": 0}, "llama", 32),
    "oft, block size adjusted": ("OFTConfig", {**ALL, "oft_block_size": 5}, "llama", 32),
    "oft by Cayley": ("OFTConfig", {**ALL, "oft_block_size": 8, "use_cayley_neumann": False}, "llama", 32),
    "oft with shared blocks": ("OFTConfig", {**ALL, "oft_block_size": 8, "block_share": True}, "llama", 32),
    "coft that binds": ("OFTConfig", {**ALL, "oft_block_size": 8, "coft": True, "eps": 1e-3}, "llama", 32),
    "coft that does not": ("OFTConfig", {**ALL, "oft_block_size": 8, "coft": True, "eps": 1.0}, "llama", 32),
    "oft and all biases": ("OFTConfig", {**ALL, "oft_block_size": 8, "bias": "all"}, "biased", 32),
    "oft and its biases": ("OFTConfig", {**QKV, "oft_block_size": 8, "bias": "oft_only"}, "biased", 32),
    "oft of embeddings": ("OFTConfig", {**EMBEDDED, "oft_block_size": 8}, "llama", 32),
    "boft": ("BOFTConfig", {**ALL, "boft_block_size": 4}, "llama", 32),
    "boft with biases": ("BOFTConfig", {**ALL, "boft_block_size": 4}, "biased", 32),
    "boft in two factors": ("BOFTConfig", {**ALL, "boft_block_size": 4, "boft_n_butterfly_factor": 2}, "llama", 32),
    "boft in three factors": (
        "BOFTConfig",
        {**ALL, "boft_block_size": 0, "boft_block_num": 8, "boft_n_butterfly_factor": 3},
        "llama",
        32,
    ),
    "hra": ("HRAConfig", {**ALL, "r": 4}, "llama", 4),
    "hra, odd": ("HRAConfig", {**ALL, "r": 3}, "llama", 3),
    "hra, one reflection": ("HRAConfig", {**ALL, "r": 1}, "llama", 1),
    "hra, orthonormalised": ("HRAConfig", {**ALL, "r": 4, "apply_GS": True, "init_weights": False}, "llama", 4),
    "road 1": ("RoadConfig", {**ALL, "variant": "road_1", "group_size": 8}, "biased", 32),
    "road 2": ("RoadConfig", {**ALL, "variant": "road_2", "group_size": 16}, "biased", 32),
    "road 4": ("RoadConfig", {**ALL, "variant": "road_4", "group_size": 2}, "biased", 32),
    "hira": ("HiraConfig", {**ALL, "r": 4}, "llama", 32),
    "hira of embeddings": ("HiraConfig", {**EMBEDDED, "r": 4}, "llama", 32),
    # peft notes what it finds for the other methods, and not for HiRA: the file says fan_in_fan_out false.
    "hira of Conv1D, not noted": ("HiraConfig", {"r": 4, "target_modules": ["c_attn", "c_proj"]}, "gpt2", 32),
    "hira of Conv1D": ("HiraConfig", {"r": 4, "target_modules": ["c_fc", "wte"], "fan_in_fan_out": True}, "gpt2", 32),
    "delora": ("DeloraConfig", {**ALL, "r": 4}, "llama", 4),
    "delora, patterns": (
        "DeloraConfig",
        {**ALL, "r": 4, "rank_pattern": {"k_proj": 2}, "lambda_pattern": {"q_proj": 3}},
        "llama",
        4,
    ),
    "psoft": ("PsoftConfig", {**ALL, "r": 4, "psoft_alpha": 7}, "llama", 4),
    "psoft, both sides alike": (
        "PsoftConfig",
        {**ALL, "r": 4, "psoft_alpha": 7, "ab_svd_init": "pissa_init"},
        "llama",
        4,
    ),
    "psoft, free": ("PsoftConfig", {**ALL, "r": 4, "psoft_orth": False, "psoft_mag_a": False}, "llama", 4),
    "psoft, series": ("PsoftConfig", {**ALL, "r": 4, "use_cayley_neumann": True, "psoft_mag_b": False}, "llama", 4),
    "psoft, limited series": (
        "PsoftConfig",
        {**ALL, "r": 4, "use_cayley_neumann": True, "cayley_neumann_eps": 1e-3, "num_cayley_neumann_terms": 7},
        "llama",
        4,
    ),
    "psoft, random SVD": ("PsoftConfig", {**ALL, "r": 4, "psoft_svd": "lowrank", "random_seed": 3}, "llama", 4),
    "glora": ("GloraConfig", {**ALL, "r": 4}, "biased", 32),
    "glora of columns": (
        "GloraConfig",
        {**ALL, "config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"},
        "biased",
        32,
    ),
    "glora of numbers": ("GloraConfig", {**ALL, "config_A_B": "constant", "config_C": "none"}, "biased", 32),
    "glora of biases": ("GloraConfig", {**ALL, "config_A_B": "none", "config_D_E": "none"}, "biased", 1),
    "glora without biases": ("GloraConfig", {**ALL, "r": 4}, "llama", 32),
    "frod": ("FrodConfig", {**ALL, "sparse_rate": 0.2, "progressbar": False}, "llama", 32),
    "frod, made again": ("FrodConfig", {**ALL, "save_projection": False, "projection_prng_key": 5}, "llama", 32),
    "frod, nothing sparse": ("FrodConfig", {**ALL, "save_projection": False, "sparse_rate": 0.0}, "llama", 32),
    "frod of Conv1D": ("FrodConfig", {**CONV, "save_projection": False}, "gpt2", 32),
    "tinylora": ("TinyLoraConfig", {**ALL, "u": 5}, "llama", 2),
    "tinylora, partly tied": ("TinyLoraConfig", {**ALL, "u": 5, "weight_tying": 0.7}, "llama", 2),
    "tinylora, one vector": ("TinyLoraConfig", {**ALL, "u": 5, "weight_tying": 1.0, "projection_seed": 1}, "llama", 2),
    "tinylora of embeddings": ("TinyLoraConfig", {**EMBEDDED, "r": 3}, "llama", 3),
    "tinylora of Conv1D": ("TinyLoraConfig", {"target_modules": ["c_fc", "wte"]}, "gpt2", 2),
    "osf": ("OSFConfig", ALL, "llama", 32),
    "osf, patterns": ("OSFConfig", {**ALL, "effective_rank": 20, "rank_pattern": {"q_proj|o_proj": 0.9}}, "llama", 8),
    "osf, random start": ("OSFConfig", {**ALL, "init_weights": False}, "llama", 32),
    "super-tuning": ("SupertuningConfig", {**ALL, "sparsity": 0.9}, "llama", 32),
    "super-tuning and LoRA": ("SupertuningConfig", {**ALL, "r": 2, "select_top": False}, "llama", 32),
    "super-tuning, chosen again": ("SupertuningConfig", {**ALL, "save_precomputed_indices": False}, "llama", 32),
    "deft": ("DeftConfig", {**ALL, "r": 4}, "llama", 4),
    "deft by QR": ("DeftConfig", {**ALL, "r": 4, "decomposition_method": "qr", "alpha": 3}, "llama", 4),
    "deft, removal only": ("DeftConfig", {**ALL, "r": 4, "para": True}, "llama", 4),
    "deft of Conv1D": ("DeftConfig", {**CONV, "r": 4}, "gpt2", 4),
    "peanut": ("PeanutConfig", {**ALL, "r": 4}, "llama", 4),
    "peanut, deep": ("PeanutConfig", {**ALL, "r": 4, "depth": 2, "scaling": 0.3, "act_fn": "gelu"}, "llama", 4),
    "beft": ("BeftConfig", ALL, "biased", 0),
}
IN_HALF = (
    "ia3",
    "oft",
    "boft",
    "hra",
    "hira",
    "delora",
    "psoft",
    "frod",
    "frod, made again",
    "tinylora",
    "osf",
    "peanut",
)
STARTS_AT_ZERO = (
    "ia3",
    "oft",
    "boft",
    "hra",
    "road 1",
    "hira",
    "delora",
    "psoft",
    "glora",
    "tinylora",
    "osf",
    "peanut",
)
ACTIVATIONS = ("relu6", "leaky_relu", "gelu_pytorch_tanh", "silu", "swish", "mish", "sigmoid", "tanh", "linear")


@pytest.fixture(autouse=True)
def butterfly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give peft the one CUDA kernel that it lacks here: blocks to block-diagonal matrices."""

    def forward(blocks: Tensor) -> tuple[Tensor]:
        return (torch.stack([torch.block_diag(*factor) for factor in blocks]),)

    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: SimpleNamespace(forward=forward))


def _make(bases: dict[str, Path], out: Path, case: str, base: str | None = None) -> tuple[Path, Path, Path]:
    """Return the directories of a case's base, of its trained adapter and of its start."""
    import peft

    kind, settings, default, _ = CASES[case]
    directory = bases[base or default]
    return directory, *make_adapter(directory, out, getattr(peft, kind)(**settings))


def _open(base: Path, adapter: Path) -> Updates:
    return open_updates(Snapshot(1, adapter, "adapter"), TensorStore.open_model(base), None)


def _merged_minus_base(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return what peft's merge in float64 changes, by parameter, matrices as O × I.

    The base is loaded in its own dtype, as users load it, and widened after peft's initialisation: PSOFT refuses a
    base in float64, and OSF rounds to the dtype of the base.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    merged = adapted.double().merge_and_unload().state_dict()
    store = TensorStore.open_model(base)
    differences = {name: merged[name] - tensor.double() for name, tensor in store.as_stored().items()}
    return {name: found.T if name in store.transposed else found for name, found in differences.items()}


def _compare(base: Path, adapter: Path, *, tolerance: float = EXACT, square_bound: int | None = None) -> None:
    """Compare every parameter of the base: those that spectra does not name must not change."""
    updates, store = _open(base, adapter), TensorStore.open_model(base)
    assert updates.skipped == {}
    for parameter, expected in _merged_minus_base(base, adapter).items():
        module, weight = parameter.removesuffix(".weight"), store[parameter].double()
        if module in updates.matrices:
            delta = updates.matrices[module](weight)
            assert delta.shape == tuple(weight.shape)
            assert _distance(delta.dense(), expected) <= tolerance, parameter
            rank = int(torch.linalg.matrix_rank(expected, rtol=max(tolerance, 1e-9)))
            assert rank <= delta.rank_bound
            if weight.shape[0] == weight.shape[1]:
                assert square_bound in (None, delta.rank_bound)
        elif module in updates.vectors:
            assert _distance(updates.vectors[module](weight), expected) <= tolerance, parameter
        else:
            assert not expected.any(), parameter


def _distance(found: Tensor, expected: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(found - expected))
    return difference / norm if norm > 0 else difference


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("deft")])
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = _make(bases, tmp_path, case)
    _compare(base, end, square_bound=CASES[case][3])


@pytest.mark.parametrize("case", IN_HALF)
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = _make(bases, tmp_path, case, "half")
    _compare(base, end)


class _Double:
    """torch, with float64 under the name of float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("deft")])
def test_deft_against_its_merge_in_float32_and_in_float64(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Peft merges DEFT in float32 whatever the dtype of the model: with that name replaced, it merges in float64."""
    base, end, _ = _make(bases, tmp_path, case)
    _compare(base, end, tolerance=1e-5, square_bound=CASES[case][3])
    monkeypatch.setattr("peft.tuners.deft.layer.torch", _Double())
    _compare(base, end)


@pytest.mark.parametrize("terms", range(1, 8))
def test_every_length_of_the_neumann_series(bases: dict[str, Path], tmp_path: Path, terms: int) -> None:
    from peft import OFTConfig

    config = OFTConfig(**QKV, oft_block_size=8, num_cayley_neumann_terms=terms, init_weights=False)
    _compare(bases["llama"], make_adapter(bases["llama"], tmp_path, config)[0])


@pytest.mark.parametrize("act_fn", ACTIVATIONS)
def test_every_activation_of_peanut(bases: dict[str, Path], tmp_path: Path, act_fn: str) -> None:
    from peft import PeanutConfig

    config = PeanutConfig(**QKV, r=4, depth=1, act_fn=act_fn)
    _compare(bases["llama"], make_adapter(bases["llama"], tmp_path, config)[0])


def test_boft_without_cuda_has_one_factor_whatever_its_configuration_says(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    base, end, _ = _make(bases, tmp_path, "boft in two factors")
    assert json.loads((end / "adapter_config.json").read_text())["boft_n_butterfly_factor"] == 2
    _compare(base, end)


@pytest.mark.parametrize("case", STARTS_AT_ZERO)
def test_nothing_is_exactly_nothing_before_training(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, _, start = _make(bases, tmp_path, case)
    updates, store = _open(base, start), TensorStore.open_model(base)
    assert updates.matrices
    assert all(f(store[f"{module}.weight"].double()).frobenius() == 0 for module, f in updates.matrices.items())
    assert not any(f(store[module].double()).any() for module, f in updates.vectors.items())


def test_delora_takes_the_norms_of_the_base_where_the_file_has_none(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "delora")
    expected = _merged_minus_base(base, end)
    change_file(end / "adapter_model.safetensors", lambda t: {k: v for k, v in t.items() if "w_norm" not in k})
    weight = TensorStore.open_model(base)["model.layers.0.self_attn.q_proj.weight"].double()
    found = _open(base, end).matrices["model.layers.0.self_attn.q_proj"](weight).dense()
    assert _distance(found, expected["model.layers.0.self_attn.q_proj.weight"]) < 1e-6  # peft's norms are float32


def test_beft_names_the_biases_that_the_base_lacks(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "beft")
    bias = "model.layers.0.mlp.up_proj.bias"
    other = tmp_path / "base"
    other.mkdir()
    tensors = {key: tensor for key, tensor in load_file(base / "model.safetensors").items() if key != bias}
    save_file(tensors, other / "model.safetensors")
    updates = _open(other, end)
    assert len(updates.vectors) == 13
    assert updates.skipped == {bias: "the base has no such bias to add to"}


def _set(path: Path, **settings: Any) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


REFUSED_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "the series of an older peft": ("oft", {"peft_version": "0.17.1"}, "another series in the peft before 0.18"),
    "the series of an unknown peft": ("oft", {"peft_version": None}, "another series in the peft before 0.18"),
    "OFT of transposed weights": ("oft", {"fan_in_fan_out": True}, "sets fan_in_fan_out"),
    "a trained bias under GLoRA's": ("glora", {"bias": "all"}, "sets bias"),
    "an activation that is not computed": ("peanut", {"act_fn": "xielu"}, "sets act_fn='xielu'"),
    "projections of another seed": ("tinylora", {"projection_seed": 43}, "not those that projection_seed gives"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_options_refused_by_name(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    case, settings, words = REFUSED_OPTIONS[name]
    base, end, _ = _make(bases, tmp_path, case)
    _set(end, **settings)
    with pytest.raises(UnsupportedMethodError, match=words):
        _open(base, end)


def test_an_older_peft_is_fine_without_the_series(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "oft by Cayley")
    _set(end, peft_version="0.17.1")
    assert len(_open(base, end).matrices) == 14


# Kind of file that leaves the update undetermined: how it is made, and the words of the refusal.
UNDETERMINED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "tinylora without projections": ("TinyLoraConfig", {"save_projection": False}, "llama", "save_projection is off"),
    "reflections of equal columns": ("HRAConfig", {"r": 4, "apply_GS": True}, "llama", "linearly dependent columns"),
    "entries of equal size": (
        "SupertuningConfig",
        {"save_precomputed_indices": False, "sparsity": 0.5},
        "half",
        "depended on the device",
    ),
    "biases that the base lacks": ("BeftConfig", {}, "llama", "no parameter of the base changes"),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_files_that_leave_the_update_open_are_refused(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    import peft

    kind, settings, base, words = UNDETERMINED[name]
    _, start = make_adapter(bases[base], tmp_path, getattr(peft, kind)(**QKV, **settings))
    store = TensorStore.open_model(bases[base])
    with pytest.raises(UnsupportedMethodError, match=words):
        for module, function in _open(bases[base], start).matrices.items():
            function(store[f"{module}.weight"].double())


def test_super_tuning_refuses_equal_sizes_at_the_edge_of_its_choice(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "super-tuning, chosen again")
    module = "model.layers.0.self_attn.q_proj"
    weight = TensorStore.open_model(base)[f"{module}.weight"]
    count = len(load_file(end / "adapter_model.safetensors")[f"base_model.model.{module}.supertuning_values"])
    order = weight.abs().flatten().topk(count + 1).indices
    weight.view(-1)[order[-1]] = weight.view(-1)[order[-2]]
    other = write_model(tmp_path / "tied", {f"{module}.weight": weight})
    with pytest.raises(UnsupportedMethodError, match="entries of the base have equal sizes"):
        _open(other, end).matrices[module](weight.double())


def test_frod_refuses_two_modules_of_one_kind_in_a_layer(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "frod, made again")
    twin = "base_model.model.vision.layers.0.self_attn.q_proj.frod_lambda_l"
    change_file(end / "adapter_model.safetensors", lambda tensors: {**tensors, twin: torch.ones(32)})
    with pytest.raises(UnsupportedMethodError, match=r"q_proj are of one kind in one layer"):
        _open(base, end).matrices["model.layers.0.mlp.up_proj"](torch.zeros(48, 32, dtype=torch.float64))


@pytest.mark.parametrize("case", ["frod", "tinylora"])
def test_a_file_that_lacks_a_shared_tensor_is_named(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = _make(bases, tmp_path, case)
    lost = {"frod": "frod_V.self_attn_q_proj", "tinylora": "tinylora_v.3"}[case]
    change_file(
        end / "adapter_model.safetensors", lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(lost)}
    )
    with pytest.raises(CorruptFileError, match="has no (frod_V for self_attn_q_proj|tinylora_v.3)"):
        _open(base, end).matrices["model.layers.0.self_attn.q_proj"](torch.zeros(32, 32, dtype=torch.float64))


@pytest.mark.parametrize(
    "case", ["ia3", "oft", "boft", "hra", "hira", "delora", "frod", "tinylora", "osf", "deft", "peanut"]
)
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = _make(bases, tmp_path, case)
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        _open(base, end).matrices["model.layers.0.self_attn.q_proj"](other)


@pytest.mark.parametrize("case", ["norms", "beft", "ia3 with biases"])
def test_a_vector_of_another_length_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = _make(bases, tmp_path, case)
    function = next(iter(_open(base, end).vectors.values()))
    with pytest.raises(CorruptFileError, match="numbers, the base 7"):
        function(torch.ones(7, dtype=torch.float64))


def test_super_tuning_of_entries_that_the_base_lacks(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = _make(bases, tmp_path, "super-tuning")
    with pytest.raises(CorruptFileError, match="outside the base weight, 20 × 20"):
        _open(base, end).matrices["model.layers.0.self_attn.q_proj"](torch.ones(20, 20, dtype=torch.float64))


@pytest.mark.parametrize("kind", REFUSED)
def test_methods_without_a_weight_update_are_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(UnsupportedMethodError, match=f"{kind} leaves no weight update to analyse: it|a|A") as caught:
        open_updates(Snapshot(0, tmp_path, "adapter"), TensorStore({}, tmp_path), None)
    assert isinstance(caught.value, SpectraError) and REFUSED[kind] in str(caught.value)


def test_every_peft_type_is_read_or_refused() -> None:
    from peft import PeftType

    assert set(READERS) & set(REFUSED) == set()
    assert set(READERS) | set(REFUSED) == {kind.value for kind in PeftType}
