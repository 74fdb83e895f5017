"""Models made to run code, to mislead or to exhaust are refused, and run nothing."""

import io
import json
import pathlib
import pickle  # noqa: TID251
import shutil
import sys
import types
import zipfile
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from assay.errors import InputError, RefusedError
from assay.storage import load_model
from assay.storage.huggingface import _check_settings, processor, read_encoder, read_model
from assay.storage.pickles import foreign_globals

IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def _factory(monkeypatch) -> None:
    module = types.ModuleType("networks_of_the_user")
    module.linear = lambda: nn.Linear(3, 2)
    monkeypatch.setitem(sys.modules, "networks_of_the_user", module)


def refused(path: pathlib.Path, pattern: str) -> None:
    with pytest.raises(RefusedError, match=pattern):
        load_model(f"{path}@networks_of_the_user:linear")


# pickles


def test_globals_are_told_without_running(betraying: bytes, marker) -> None:
    assert any("pathlib" in name for name in foreign_globals(betraying, "here"))
    assert foreign_globals(pickle.dumps({"a": [1, 2.5, "x", None]}), "here") == []
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x00\x93.",
        b"\x80\x02\x82\x01.",
        b"cos\nsystem\n(S'true'\ntR.cos\n",
    ],
)
def test_ways_to_name_a_global(content: bytes) -> None:
    assert foreign_globals(content, "here") != []


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_pickled_weights_run_nothing(tmp_path, suffix, betraying: bytes, marker, forms) -> None:
    path = tmp_path / f"w.{suffix}"
    torch.save({"weight": forms.Betraying(marker)}, path)
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
    refused(path, r"would import or call .*pathlib|getattr.*nothing was run")
    replaced(path, {name: betraying})
    refused(path, "nothing was run")
    path.write_bytes(betraying)
    refused(path, "broken")
    torch.save(nn.Linear(3, 2), path)
    refused(path, "torch.nn.modules.linear Linear")
    torch.save(nn.Linear(3, 2).state_dict(), path)
    replaced(path, {"w/constants.pkl": betraying})  # as TorchScript archives have it
    refused(path, "one small pickle of tensors")
    assert not marker.exists()


def replaced(path: pathlib.Path, contents: dict[str, bytes]) -> None:
    """Replace or add members of an archive."""
    with zipfile.ZipFile(path) as archive:
        old = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**old, **contents}.items():
            archive.writestr(name, content)


def test_files_of_anything_but_tensors(tmp_path) -> None:
    torch.save([torch.ones(1)], tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "tensors by name")
    torch.save({"a": {"weight": torch.ones(1)}}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "state_dict")


def test_tensors_larger_than_their_storage(tmp_path) -> None:
    weights = {"weight": torch.zeros(1).expand(2, 3), "bias": torch.zeros(1).expand(2**40)}
    torch.save(weights, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "more numbers than it stores")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_are_broken(tmp_path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    weights = nn.Linear(3, 2).state_dict()
    save: Callable = save_file if suffix == "safetensors" else torch.save
    save(weights, path)
    content = path.read_bytes()
    for end in (len(content) // 2, 20, 0):
        path.write_bytes(content[:end])
        refused(path, "broken|truncated")
    for bad in (torch.nan, torch.inf):
        weights["bias"][1] = bad
        save(weights, path)
        refused(path, r"NaN or infinity in \['bias'\]")
    with pytest.raises(RefusedError, match="at most 0 MB"):
        load_model(f"{path}@networks_of_the_user:linear", max_mb=0)


# exported archives


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> pathlib.Path:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    program = torch.export.export(
        network, (IMAGES,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    torch.export.save(program, path)
    return path


@pytest.fixture
def attacked(exported, tmp_path) -> Callable[..., pathlib.Path]:
    """Copy the archive with its graph, or another member, changed."""

    def make(
        change: Callable[[dict], None] = lambda _: None, member: str = "m/models/model.json"
    ) -> pathlib.Path:
        path = tmp_path / "m.pt2"
        shutil.copyfile(exported, path)
        with zipfile.ZipFile(path) as archive:
            said = json.loads(archive.read(member))
        change(said)
        replaced(path, {member: json.dumps(said).encode()})
        return path

    return make


def call(marker: pathlib.Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def test_the_archive_itself_is_fine(attacked) -> None:
    assert load_model(str(attacked())).model(IMAGES).shape == (2, 2)


def test_expressions_in_shapes_run_nothing(attacked, marker) -> None:
    def change(said: dict) -> None:
        sizes = said["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"{call(marker)} or {sizes[0]['as_expr']['expr_str']}"

    path = attacked(change)
    load_model(str(path)).model(IMAGES)
    assert not marker.exists()
    torch.export.load(path)
    assert marker.exists(), "torch.export.load evaluates it: that is why it is not used"


def test_guards_and_metadata_run_nothing(attacked, marker) -> None:
    def change(said: dict) -> None:
        said["guards_code"] = [call(marker)]
        said["graph_module"]["metadata"] = {"custom": call(marker)}
        for node in said["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {"stack_trace": "x\n" + call(marker), "nn_module_stack": "a,b,os"}
            node["name"] = f"x;{call(marker)}"
        said["graph_module"]["module_call_graph"] = [call(marker)]

    load_model(str(attacked(change))).model(IMAGES)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.relu.default.__init__",
        "torch.ops.aten.__class__.x",
        "torch.ops.load_library",
        "_operator.attrgetter",
        "math.os.system",
        "#namespace:op",
        "",
    ],
)
def test_operators_that_are_not_on_the_list(attacked, target: str) -> None:
    def change(said: dict) -> None:
        said["graph_module"]["graph"]["nodes"][1]["target"] = target

    with pytest.raises(InputError, match="operator"):
        load_model(str(attacked(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("graph_module"),
        lambda said: said["graph_module"]["graph"].update(nodes=[3]),
        lambda said: said["graph_module"]["graph"].update(nodes=[{"target": 3}]),
        lambda said: said["graph_module"].update(signature=[]),
        lambda said: said["graph_module"]["signature"]["input_specs"].pop(0),
        lambda said: said["graph_module"]["signature"]["input_specs"].pop(),
        lambda said: said["graph_module"]["signature"].update(output_specs=[]),
        lambda said: said["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(
            arg={"as_custom_obj": {"name": "x", "class_fqn": "os"}}
        ),
        lambda said: said.update(schema_version={"major": 7}),
    ],
)
def test_graphs_that_are_broken(attacked, change: Callable[[dict], object]) -> None:
    with pytest.raises(InputError):
        load_model(str(attacked(change))).model(IMAGES)


def put_first(*targets: tuple[str, list[dict], list[dict]]) -> Callable[[dict], None]:
    """Put calls before the graph's own."""

    def change(said: dict) -> None:
        said["graph_module"]["graph"]["nodes"][:0] = [
            {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}}
            for target, inputs, outputs in targets
        ]

    return change


def given(name: str, **arg: object) -> dict:
    return {"name": name, "kind": 1, "arg": arg}


TENSOR = {"as_tensor": {"name": "new"}}


@pytest.mark.parametrize("through", ["p_0_weight", "seen"])
def test_a_graph_that_counts_its_calls(attacked, through: str) -> None:
    """Weights that change with every call could wake a backdoor after the audit."""
    view = (
        "torch.ops.aten.view.default",
        [given("self", as_tensor={"name": "p_0_weight"}), given("size", as_ints=[-1])],
        [{"as_tensor": {"name": "seen"}}],
    )
    write = (
        "torch.ops.aten.mul_.Scalar",
        [given("self", as_tensor={"name": through}), given("other", as_float=1.01)],
        [TENSOR],
    )
    model = load_model(str(attacked(put_first(view, write)))).model.requires_grad_(False)
    with pytest.raises(RefusedError, match="leaves its weights"):
        model(IMAGES)


@pytest.mark.parametrize(
    ("operator", "more"),
    [
        ("dropout.default", [given("p", as_float=0.5), given("zzz", as_bool=True)]),
        ("dropout.default", [given("p", as_float=0.5), given("zzz", as_name="input")]),
        (
            "native_batch_norm.default",
            [given("", as_none=True)] * 4
            + [given("x", as_bool=True)]
            + [given("", as_float=0)] * 2,
        ),
    ],
)
def test_training_under_another_name(attacked, operator: str, more: list[dict]) -> None:
    first = given("x", as_tensor={"name": "input"})
    path = attacked(put_first((f"torch.ops.aten.{operator}", [first, *more], [TENSOR])))
    with pytest.raises(InputError, match="evaluation mode"):
        load_model(str(path))


@pytest.mark.parametrize(
    "inputs",
    [
        [given("", as_string="x" * 9), given("", as_int=10**9)],
        [given("", as_int=2**62), given("", as_int=2**63)],
        [given("", as_ints=[1]), given("", as_int=10**9)],
    ],
)
def test_arithmetic_of_anything_but_sizes(attacked, inputs: list[dict]) -> None:
    path = attacked(put_first(("_operator.mul", inputs, [{"as_sym_int": {"as_name": "n"}}])))
    with pytest.raises(RefusedError, match="sizes"):
        load_model(str(path)).model(IMAGES)


FLOATS = [given("value", as_float=1.0), {"name": "dtype", "kind": 2, "arg": {"as_scalar_type": 7}}]
CPU = {"name": "device", "kind": 2, "arg": {"as_device": {"type": "cpu", "index": None}}}
IMAGE = given("self", as_tensor={"name": "input"})
FIRST = [{"as_tensor": {"name": "first"}}]
TABLE = ("torch.ops.aten.ones.default", [given("size", as_ints=[3_000_000, 1])], FIRST)


def aten(operator: str, *inputs: dict) -> tuple[str, list[dict], list[dict]]:
    return (f"torch.ops.aten.{operator}", list(inputs), [TENSOR])


@pytest.mark.parametrize(
    "calls",
    [
        [aten("ones.default", given("size", as_ints=[10**13]))],
        [aten("ones.default", given("size", as_ints=[10**13]), CPU)],
        [aten("full.default", given("size", as_ints=[2**40, 9]), *FLOATS, CPU)],
        [aten("eye.default", given("n", as_int=10**7), CPU)],
        [aten("arange.default", given("end", as_int=10**13), CPU)],
        [aten("new_zeros.default", IMAGE, given("size", as_ints=[10**13]))],
        [aten("repeat.default", IMAGE, given("repeats", as_ints=[10**11, 1, 1, 1]))],
        [aten("constant_pad_nd.default", IMAGE, given("pad", as_ints=[0, 10**11]))],
        [aten("upsample_nearest2d.default", IMAGE, given("output_size", as_ints=[10**7, 10**7]))],
        [TABLE, aten("expand.default", given("self", **FIRST[0]), given("", as_ints=[-1, 10**7]))],
        [
            TABLE,
            aten("t.default", given("self", **FIRST[0])),
            aten("mul.Tensor", given("self", **FIRST[0]), given("other", **TENSOR)),
        ],
        [
            TABLE,
            aten("t.default", given("self", **FIRST[0])),
            aten(
                "einsum.default",
                given("", as_string="ab,bc"),
                given("", as_tensors=[FIRST[0]["as_tensor"], TENSOR["as_tensor"]]),
            ),
        ],
    ],
    ids=lambda calls: calls[-1][0],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_operators_that_would_fill_the_memory(attacked, calls: list, gradients: bool) -> None:
    model = load_model(str(attacked(put_first(*calls)))).model
    with torch.set_grad_enabled(gradients), pytest.raises(RefusedError, match="fill the memory"):
        model(IMAGES)


def made_of(count: int) -> list[tuple[str, list[dict], list[dict]]]:
    """Calls that make `count` tensors of 40 MB each."""
    size = given("size", as_ints=[10_000_000])
    return [
        ("torch.ops.aten.ones.default", [size], [{"as_tensor": {"name": f"large_{row}"}}])
        for row in range(count)
    ]


def test_values_that_fill_the_memory_together(attacked) -> None:
    names = [{"name": f"large_{row}"} for row in range(20)]
    first = [given("tensors", as_tensors=[{"name": f"one_{row}"} for row in range(20)])]
    views = [
        (
            "torch.ops.aten.slice.Tensor",
            [given("self", as_tensor=name), *(given("", as_int=n) for n in (0, 0, 1))],
            [{"as_tensor": {"name": f"one_{row}"}}],
        )
        for row, name in enumerate(names)
    ]
    makes = [call for pair in zip(made_of(20), views, strict=True) for call in pair]
    together = aten("cat.default", *first)
    model = load_model(str(attacked(put_first(*makes, together)))).model
    with torch.no_grad(), pytest.raises(RefusedError, match="fill the memory"):
        model(IMAGES)


def test_values_that_hide_tensors(attacked) -> None:
    hidden = ("torch.ops.aten.var_mean.default", [IMAGE], FIRST)
    stacked = aten("stack.default", given("tensors", **FIRST[0]))
    model = load_model(str(attacked(put_first(hidden, stacked)))).model
    with pytest.raises(RefusedError, match="of tensors and sizes, got tuple"):
        model(IMAGES)


def test_values_go_after_their_last_use(attacked) -> None:
    model = load_model(str(attacked(put_first(*made_of(20))))).model
    with torch.no_grad():
        assert model(IMAGES).shape == (2, 2)


def test_a_mask_counts_as_if_it_kept_everything(attacked) -> None:
    mask = aten("gt.Scalar", IMAGE, given("other", as_int=0))
    kept = aten("index.Tensor", IMAGE, given("indices", as_optional_tensors=[TENSOR]))
    model = load_model(str(attacked(put_first(mask, kept)))).model
    assert model(IMAGES).shape == (2, 2)


def test_networks_that_are_wide(attacked) -> None:
    """ResNet-50 makes 1.6 GB of 512 images; here are the sizes alone."""
    wide = nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(64, 256, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 2)),
    ).eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(wide, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=shapes)
    path = attacked()
    torch.export.save(program, path)
    model = load_model(str(path)).model.to("meta")
    with torch.no_grad():
        assert model(torch.empty(512, 3, 224, 224, device="meta")).shape == (512, 2)


def test_a_member_with_many_names(attacked) -> None:
    """Tensors that share a member are views of it, and count against the bound."""

    def change(said: dict) -> None:
        entry = said["config"]["3.weight"]
        for row in range(2_000):
            meta = {**entry["tensor_meta"], "sizes": [{"as_int": 144}, {"as_int": 2}]}
            meta["strides"] = [{"as_int": 2}, {"as_int": 1}]
            said["config"][f"more_{row}"] = {**entry, "tensor_meta": {**meta, "note": row}}

    path = attacked(change, "m/data/weights/model_weights_config.json")
    assert load_model(str(path)).model(IMAGES).shape == (2, 2)
    with pytest.raises(RefusedError, match="at most 2 MB of weights"):
        load_model(str(path), max_mb=2)


@pytest.mark.parametrize(
    "name", ["forward", "_nodes.x", "../x", "a b", "__class__.x", ".".join(["a"] * 3_000)]
)
def test_weights_called_like_parts_of_the_module(attacked, name: str) -> None:
    path = attacked(
        lambda said: said["config"].update({name: said["config"]["0.weight"]}),
        "m/data/weights/model_weights_config.json",
    )

    def rename(said: dict) -> None:
        spec = said["graph_module"]["signature"]["input_specs"][0]["parameter"]
        spec["parameter_name"] = name

    with zipfile.ZipFile(path) as archive:
        said = json.loads(archive.read("m/models/model.json"))
    rename(said)
    replaced(path, {"m/models/model.json": json.dumps(said).encode()})
    with pytest.raises(RefusedError):
        load_model(str(path))


def test_pickles_in_archives_run_nothing(attacked, betraying: bytes, marker) -> None:
    stream = io.BytesIO()
    torch.save({"x": torch.ones(1)}, stream)
    path = attacked()
    replaced(path, {"m/data/sample_inputs/model.pt": betraying})
    assert load_model(str(path)).model(IMAGES).shape == (2, 2)
    for flag, name in ((True, "weight_0"), (False, "custom_obj_0"), (False, "opaque_obj_0")):

        def change(said: dict, flag: bool = flag, name: str = name) -> None:
            said["config"]["0.weight"].update(use_pickle=flag, path_name=name)

        path = attacked(change, "m/data/weights/model_weights_config.json")
        replaced(path, {f"m/data/weights/{name}": betraying})
        with pytest.raises(RefusedError, match=r"holds a pickle.*nothing was run"):
            load_model(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "meta",
    [
        {"sizes": [{"as_int": 2**39}]},
        {"sizes": [{"as_int": -4}]},
        {"sizes": [{"as_int": 4}], "strides": [{"as_int": 2**39}]},
        {"storage_offset": {"as_int": 10**9}},
        {"dtype": 99},
        {"sizes": [{"as_expr": {"expr_str": "1"}}]},
        {"sizes": [{"as_int": n} for n in (0, 2**39, 2**39)], "strides": [{"as_int": 1}] * 3},
        {"sizes": [{"as_int": 1}] * 65, "strides": [{"as_int": 1}] * 65},
    ],
)
def test_tensors_of_archives_that_lie(attacked, meta: dict) -> None:
    config = "m/data/weights/model_weights_config.json"
    path = attacked(lambda said: said["config"]["0.weight"]["tensor_meta"].update(meta), config)
    with pytest.raises(RefusedError):
        load_model(str(path)).model(IMAGES)


@pytest.mark.parametrize(
    "member", ["m/data/aotinductor/model/x.so", "m/code.py", "../x", "other/models/model.json"]
)
def test_archives_with_more_than_a_graph(attacked, member: str) -> None:
    path = attacked()
    replaced(path, {member: b"x"})
    with pytest.raises(RefusedError):
        load_model(str(path))


def test_truncated_archives(attacked) -> None:
    path = attacked()
    content = path.read_bytes()
    for end in (len(content) - 30, len(content) // 2, 0):
        path.write_bytes(content[:end])
        with pytest.raises(RefusedError):
            load_model(str(path))


# safetensors


def headed(path: pathlib.Path, **tensors: dict) -> pathlib.Path:
    """Write a safetensors file with a header that may lie, and 8 bytes of content."""
    header = json.dumps(tensors).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [int("9" * 4_000)] * 100, "data_offsets": [0, 8]},
        {"shape": [2**48, 0], "data_offsets": [0, 0]},
        {"shape": [0, 2**40, 2**40], "data_offsets": [0, 0]},
        {"shape": [1] * 65, "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [2**64, 2**64 + 4]},
        {"shape": [-1], "data_offsets": [4, 0]},
    ],
    ids=lambda entry: f"{entry!s:.20}",
)
def test_headers_with_sizes_of_no_tensor(tmp_path, entry: dict) -> None:
    path = headed(tmp_path / "w.safetensors", weight={"dtype": "F32", **entry})
    refused(path, r"at most 64 sizes, .*'weight'")


def test_headers_that_name_the_same_bytes_often(tmp_path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    path = headed(tmp_path / "w.safetensors", **{f"w_{row}": entry for row in range(100)})
    refused(path, "share no bytes")


# Hugging Face folders

CONFIG = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}


GPT_NEO = {
    "architectures": ["GPTNeoForCausalLM"],
    "model_type": "gpt_neo",
    "attention_types": [[["global", "local"], 1]],
    "num_layers": 2,
    "num_heads": 2,
    "hidden_size": 8,
    "vocab_size": 16,
}


def hugging(path: pathlib.Path, **settings: object) -> str:
    (path / "config.json").write_text(json.dumps({**CONFIG, **settings}))
    save_file({"x": torch.ones(1)}, path / "model.safetensors")
    return str(path)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"attn_implementation": "some/kernel"}, "attn_implementation"),
        ({"_attn_implementation_internal": "some/kernel"}, "implementation"),
        ({"text_config": {"experts_implementation": "x/y"}}, "implementation"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization"),
        ({"backbone": "timm/x", "use_timm_backbone": True}, "backbone"),
        ({"model_type": "timm_wrapper"}, "model_type"),
        ({"model_type": "of-my-own"}, "of-my-own|broken"),
        ({"model_type": None}, "model_type"),
        ({"depths": [10**9, 1]}, "depths"),
        ({"model_type": "gpt2", "n_layer": 10_000_000}, "n_layer"),
        ({"model_type": "gpt_neo", "attention_types": [[["global"], 10_000_000]]}, "repeated"),
        ({"model_type": "gpt_neo", "attention_types": [[["local"] * 99, 999]] * 99}, "repeated"),
        ({"model_type": "gpt_neo", "attention_types": [["global", 10_000_000]]}, "repeated"),
        ({**GPT_NEO, "max_position_embeddings": 300_000}, "at most 16384 MB"),
        ({"hidden_sizes": [10**9, 8]}, "hidden_sizes"),
        ({"hidden_sizes": [9_000_000, 9_000_000]}, "MB"),
        ({"hidden_sizes": "abc"}, "broken"),
        ({"hidden_sizes": [float("nan")]}, "nan"),
        ({"architectures": 3}, "as architectures"),
        ({"architectures": [5]}, "as architectures"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"architectures": ["ResNetForEverything"]}, "broken|to fit"),
        ({"id2label": [1]}, "broken"),
        ({"to_dict": 3}, "broken|to fit"),
    ],
)
def test_configurations(tmp_path, settings: dict, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        load_model(hugging(tmp_path, **settings))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("resnet", {}),
        ("vit", {}),
        ("clip", {}),
        ("convnext", {}),
        ("gpt2", {}),
        ("llama", {}),
        ("gpt_neo", {}),
        ("efficientnet", {}),
        ("funnel", {"block_sizes": [4, 4, 4]}),
        ("gemma3n_text", {"vocab_size_per_layer_input": 262_144}),
        ("llama", {"block_size": 4_096, "layer_rope_theta": [500_000.0, 0]}),
    ],
)
def test_settings_of_honest_models_pass(tmp_path, kind: str, settings: dict) -> None:
    from transformers import AutoConfig

    said = {**AutoConfig.for_model(kind).to_dict(), **settings}
    _check_settings(json.loads(json.dumps(said)), tmp_path)


def test_models_of_the_oldest_names_have_their_heads(tmp_path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    made = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8))
    made.save_pretrained(tmp_path)
    read = read_model(tmp_path, max_mb=1)
    ids = torch.arange(4)[None]
    assert torch.equal(read.eval()(ids).logits, made.eval()(ids).logits)
    with pytest.raises(InputError, match="expected an encoder"):
        read_encoder(tmp_path, max_mb=1)


def test_code_in_the_folder_runs_nothing(tmp_path, marker) -> None:
    for name in ("modeling_resnet.py", "__init__.py", "configuration_resnet.py"):
        (tmp_path / name).write_text(call(marker))
    with pytest.raises(InputError, match="to fit"):
        load_model(hugging(tmp_path))
    assert not marker.exists()


def test_pickled_weights_in_the_folder_are_not_opened(tmp_path, betraying, marker) -> None:
    source = hugging(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(betraying)
    with pytest.raises(RefusedError, match="pickles are not opened"):
        load_model(source)
    assert not marker.exists()


def sharded(path: pathlib.Path, shards: dict[str, list[str]], said: dict[str, str]) -> str:
    """Write weights in several files, and an index that says where they are."""
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, tensors in shards.items():
        save_file({tensor: torch.ones(1) for tensor in tensors}, path / name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    return str(path)


def test_weights_beside_those_that_transformers_reads(tmp_path) -> None:
    source = hugging(tmp_path)
    save_file({"vit.x": torch.ones(1)}, tmp_path / "zz.safetensors")
    with pytest.raises(RefusedError, match=r"in \['model.safetensors'\] alone"):
        load_model(source)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match=r"in \['model.safetensors'\] alone"):
        load_model(source)


@pytest.mark.parametrize(
    ("shards", "said", "pattern"),
    [
        ({"a.safetensors": ["x"]}, {"x": "a.safetensors", "y": "b.safetensors"}, "alone"),
        ({"a.safetensors": ["x"], "b.safetensors": ["y"]}, {"x": "a.safetensors"}, "alone"),
        ({"a.safetensors": ["x"], "model.safetensors": ["y"]}, {"x": "a.safetensors"}, "alone"),
        ({"a.safetensors": ["x", "y"]}, {"x": "a.safetensors"}, "what .* says"),
        ({"a.safetensors": ["x"]}, {"x": ["a.safetensors"]}, "weight_map"),
        ({"a.safetensors": ["x"]}, {"x": "../a.safetensors"}, "alone"),
        ({"a.safetensors": ["x"]}, {"x": "a.safetensors"}, "to fit"),
    ],
)
def test_indices_that_lie(
    tmp_path, shards: dict[str, list[str]], said: dict[str, str], pattern: str
) -> None:
    with pytest.raises(InputError, match=pattern):
        load_model(sharded(tmp_path, shards, said))


def test_adapters_and_links_are_refused(tmp_path) -> None:
    source = hugging(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    with pytest.raises(RefusedError, match="adapter"):
        load_model(source)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "more.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(RefusedError, match="links"):
        load_model(source)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_broken_settings(tmp_path, text: str) -> None:
    source = hugging(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RefusedError):
        load_model(source)


@pytest.mark.parametrize(
    "said",
    [
        {"image_mean": ["x"], "image_std": [1]},
        {"image_mean": [float("nan")], "image_std": [1]},
        {"image_mean": [0.5], "image_std": [0]},
        {"size": -3},
        {"size": 10**9},
        {"size": "x"},
    ],
)
def test_processors(tmp_path, said: dict) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(RefusedError):
        processor(tmp_path)


def test_a_folder_of_something_else(tmp_path) -> None:
    with pytest.raises(RefusedError, match=r"config\.json"):
        load_model(str(tmp_path))
