import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pizero.model.lora import Adapted, AdaptedProduct, LoraLinear, add_lora, merge_lora, merged_weight
from pizero.model.pi0 import Pi0
from pizero.types import Observation

NAMES = [
    "vision.layers.0.out_proj",
    "vision.layers.1.fc1",
    "vlm.layers.0.self_attn.q_proj",
    "vlm.layers.1.self_attn.k_proj",
    "action.layers.0.mlp.down_proj",
    "action.layers.1.self_attn.v_proj",
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapted(model: Pi0, std: float = 0.3, dropout: float = 0.0) -> Pi0:
    """A copy with adapters on `NAMES`, B not zero."""
    model = copy.deepcopy(model)
    add_lora(model, NAMES, rank=3, alpha=7.0, dropout=dropout, generator=seeded())
    generator = seeded(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, std, generator=generator)
    return model.eval()


def velocity(model: Pi0, observation: Observation) -> torch.Tensor:
    config = model.config
    x_t = torch.randn(3, config.horizon, config.action_dim, generator=seeded(2))
    with torch.no_grad():
        return model.velocity(model.prefill(observation), x_t, torch.tensor([0.1, 0.5, 0.9]))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_fresh_adapters_change_nothing(tiny_model: Pi0, ragged: Observation) -> None:
    model = copy.deepcopy(tiny_model)
    add_lora(model, NAMES, rank=3, alpha=7.0, dropout=0.0, generator=seeded())
    assert torch.equal(velocity(model, ragged), velocity(tiny_model, ragged))


def test_the_layer_keeps_its_parameters_and_adds_two_factors(tiny_model: Pi0) -> None:
    model = copy.deepcopy(tiny_model)
    weight = model.get_parameter("vision.layers.1.fc1.weight")
    add_lora(model, NAMES, rank=3, alpha=7.0, dropout=0.0, generator=seeded())
    layer = model.get_submodule("vision.layers.1.fc1")
    assert isinstance(layer, LoraLinear)
    assert layer.weight is weight
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (36, 20),
        "bias": (36,),
        "lora_A.weight": (3, 20),
        "lora_B.weight": (36, 3),
    }
    assert layer.lora_A.weight.dtype is layer.lora_B.weight.dtype is torch.float32
    assert {name for name, module in model.named_modules() if isinstance(module, Adapted)} == set(NAMES)


def test_a_is_uniform_within_one_over_the_root_of_the_inputs_and_depends_on_the_generator_alone() -> None:
    layers = [LoraLinear(nn.Linear(100, 8), 50, 1.0, 0.0, seeded(seed)) for seed in (4, 4, 5)]
    first, same, other = (layer.lora_A.weight for layer in layers)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0.0995 < first.abs().max() < 0.1
    assert first.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_an_adapted_layer_adds_alpha_over_rank_b_a_x() -> None:
    base = nn.Linear(5, 4)
    layer = LoraLinear(base, rank=2, alpha=3.0, dropout=0.0, generator=seeded())
    nn.init.normal_(layer.lora_B.weight, generator=seeded(1))
    x = torch.randn(7, 5, generator=seeded(2))
    added = 1.5 * x @ (layer.lora_B.weight @ layer.lora_A.weight).T
    torch.testing.assert_close(layer(x), base(x) + added, atol=1e-6, rtol=1e-6)


def test_a_merged_model_is_plain_and_gives_the_same(tiny_model: Pi0, ragged: Observation) -> None:
    model = adapted(tiny_model)
    before = velocity(model, ragged)
    merge_lora(model)
    after = velocity(model, ragged)
    assert relative(after, before) < 1e-5
    assert relative(velocity(tiny_model, ragged), before) > 0.1  # the adapters do matter here
    assert model.state_dict().keys() == tiny_model.state_dict().keys()
    assert all(type(model.get_submodule(name)) is nn.Linear for name in NAMES)


@pytest.mark.parametrize("mistake", ["no alpha", "alpha not over rank", "other order"])
def test_the_usual_mistakes_of_merging_would_be_seen(tiny_model: Pi0, ragged: Observation, mistake: str) -> None:
    model = adapted(tiny_model)
    before = velocity(model, ragged)
    for name in NAMES:
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLinear)
        b, a, scale = layer.lora_B.weight, layer.lora_A.weight, layer.scale
        if mistake == "no alpha":
            scale = 1.0
        elif mistake == "alpha not over rank":
            scale = 7.0
        elif layer.weight.shape[0] == layer.weight.shape[1]:
            b, a = a.T, b.T
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight, plain.bias = nn.Parameter(layer.weight + scale * b @ a), layer.bias
        model.set_submodule(name, plain)
    assert relative(velocity(model, ragged), before) > 1e-3


def test_a_merged_weight_is_rounded_once() -> None:
    weight, a = torch.randn(40, 30, generator=seeded()), torch.randn(16, 30, generator=seeded(1))
    b = torch.randn(40, 16, generator=seeded(2))
    exact = weight.double() + 0.7 * b.double() @ a.double()
    assert torch.equal(merged_weight(weight, a, b, 0.7), exact.float())
    assert merged_weight(weight.bfloat16(), a, b, 0.7).dtype is torch.float32


def test_only_the_factors_get_gradients_and_they_are_those_of_the_product() -> None:
    base = nn.Linear(5, 4).requires_grad_(False)
    layer = LoraLinear(base, rank=2, alpha=3.0, dropout=0.0, generator=seeded())
    nn.init.normal_(layer.lora_B.weight, generator=seeded(1))
    x = torch.randn(7, 5, generator=seeded(2))
    layer(x).square().sum().backward()
    a, b = (factor.weight.detach().clone().requires_grad_() for factor in (layer.lora_A, layer.lora_B))
    F.linear(x, base.weight + 1.5 * b @ a, base.bias).square().sum().backward()
    torch.testing.assert_close(layer.lora_A.weight.grad, a.grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(layer.lora_B.weight.grad, b.grad, atol=1e-4, rtol=1e-5)
    assert base.weight.grad is None


@pytest.mark.parametrize("autocast", [True, False])
def test_float32_factors_work_on_bfloat16_weights(autocast: bool) -> None:
    exact = LoraLinear(nn.Linear(64, 32), rank=4, alpha=8.0, dropout=0.0, generator=seeded())
    nn.init.normal_(exact.lora_B.weight, generator=seeded(1))
    layer = copy.deepcopy(exact)
    layer.weight.data, layer.bias.data = layer.weight.data.bfloat16(), layer.bias.data.bfloat16()
    x = torch.randn(10, 64, generator=seeded(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x if autocast else x.bfloat16())
    assert y.dtype is torch.bfloat16
    assert relative(y.detach().float(), exact(x).detach()) < 0.02
    y.float().sum().backward()
    assert layer.lora_A.weight.grad is not None
    assert layer.lora_A.weight.grad.dtype is torch.float32


def test_dropout_is_on_the_adapter_alone_and_only_in_training(tiny_model: Pi0, ragged: Observation) -> None:
    model = adapted(tiny_model, dropout=0.5)
    assert torch.equal(velocity(model, ragged), velocity(adapted(tiny_model), ragged))
    layer = LoraLinear(nn.Linear(1000, 1), rank=1, alpha=2.0, dropout=0.25, generator=seeded())
    nn.init.ones_(layer.lora_A.weight)
    nn.init.ones_(layer.lora_B.weight)
    x = torch.ones(1, 1000)
    torch.manual_seed(0)
    added = layer(x) - F.linear(x, layer.weight, layer.bias)
    assert added.item() == pytest.approx(2000, rel=0.1)  # dropout scales what is left
    kept = added.item() / 2 * 0.75
    assert kept == pytest.approx(round(kept), abs=0.02)
    assert 700 < kept < 800


COMPILED = """
import sys
import torch
from torch import nn
from pizero.model.lora import add_lora

kind, backend = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 36), nn.Linear(36, 20)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


model = nn.Sequential(*(Layer() for _ in range(3)))
names = [f"{i}.fc{j}" for i in range(3) for j in (1, 2)]
if kind == "lora":
    add_lora(model, names, 2, 3.0, 0.0, torch.Generator())
else:
    from pizero.model.qlora import add_qlora
    adapted = [name for name in names if name.endswith("2")]
    add_qlora(model, names, adapted, torch.float32, 2, 3.0, 0.0, torch.Generator())
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        nn.init.normal_(parameter)
x, found = torch.randn(4, 20), []
for compiled in (False, True):
    for layer in model if compiled else ():
        layer.compile(fullgraph=True, dynamic=False, backend=backend)
    inputs = x.clone().requires_grad_()
    y = model(inputs)
    model.zero_grad()
    y.square().sum().backward()
    factors = [p.grad.clone() for name, p in model.named_parameters() if ".lora_" in name]
    found.append([y, inputs.grad, *factors])
torch.testing.assert_close(*found)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_compiled_layers_give_the_same_and_share_one_graph(kind: str) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    # in a process of its own: what checks shapes in tests is Python that cannot be compiled
    command = [sys.executable, "-c", COMPILED, kind, "aot_eager"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr[-2000:]


class TestQlora:
    """4-bit weights; skipped where bitsandbytes is not installed."""

    @pytest.fixture(autouse=True)
    def needs_bitsandbytes(self) -> None:
        pytest.importorskip("bitsandbytes")

    @pytest.fixture
    def add(self) -> Callable[..., None]:
        from pizero.model.qlora import add_qlora

        return add_qlora

    def test_the_base_is_what_4_bits_leave_of_it_and_the_adapter_is_added(
        self, tiny_model: Pi0, ragged: Observation, add: Callable[..., None]
    ) -> None:
        from pizero.model.qlora import round_to_nf4

        model, plain = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
        packed = [*NAMES, "vlm.layers.0.mlp.up_proj"]
        for name in packed:
            weight = plain.get_parameter(f"{name}.weight")
            weight.data = round_to_nf4(weight.data)
        assert relative(velocity(plain, ragged), velocity(tiny_model, ragged)) > 1e-3
        add(model, packed, NAMES, torch.float32, 3, 7.0, 0.0, seeded())
        torch.testing.assert_close(velocity(model, ragged), velocity(plain, ragged), atol=1e-5, rtol=1e-5)
        add_lora(plain, NAMES, 3, 7.0, 0.0, seeded())
        for one in (model, plain):
            generator = seeded(1)
            for name in NAMES:
                nn.init.normal_(one.get_parameter(f"{name}.lora_B.weight"), 0, 0.3, generator=generator)
        torch.testing.assert_close(velocity(model, ragged), velocity(plain, ragged), atol=1e-5, rtol=1e-5)

    def test_a_merged_model_is_plain_and_gives_the_same(
        self, tiny_model: Pi0, ragged: Observation, add: Callable[..., None]
    ) -> None:
        model = copy.deepcopy(tiny_model)
        packed = [*NAMES, "vlm.layers.0.mlp.up_proj", "vision.layers.0.fc1"]
        add(model, packed, NAMES, torch.float32, 3, 7.0, 0.0, seeded())
        assert {name for name, module in model.named_modules() if isinstance(module, Adapted)} == set(NAMES)
        for name in NAMES:
            nn.init.normal_(model.get_parameter(f"{name}.lora_B.weight"), 0, 0.3, generator=seeded(len(name)))
        before = velocity(model, ragged)
        merge_lora(model)
        assert relative(velocity(model, ragged), before) < 1e-5
        assert model.state_dict().keys() == tiny_model.state_dict().keys()
        assert all(type(model.get_submodule(name)) is nn.Linear for name in packed)

    def test_packed_weights_lie_on_the_levels_of_nf4(self) -> None:
        """Dettmers et al. 2023, appendix E, of the largest weight in a block of 64."""
        from pizero.model.qlora import round_to_nf4

        positive = [0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
        negative = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911]
        blocks = torch.randn(64, 64, generator=seeded())
        rounded = round_to_nf4(blocks)
        levels = rounded / rounded.abs().amax(1, keepdim=True)
        distance = (levels[..., None] - torch.tensor(negative + positive)).abs()
        assert distance.amin(-1).max() < 1e-4
        assert len(distance.argmin(-1).unique()) == 16
        assert relative(rounded.abs().amax(1), blocks.abs().amax(1)) < 0.01  # the scales have 8 bits

    def test_a_weight_takes_half_a_byte(self, add: Callable[..., None]) -> None:
        model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64))
        add(model, ["0", "1"], ["1"], torch.bfloat16, 3, 7.0, 0.0, seeded())
        assert [model.get_parameter(f"{name}.weight").numel() for name in "01"] == [1024, 1024]
        assert model.get_parameter("0.weight").dtype is torch.uint8
        assert model(torch.ones(2, 64)).dtype is torch.bfloat16

    def test_gradients_are_those_of_the_unpacked_weight(self, add: Callable[..., None]) -> None:
        from pizero.model.qlora import round_to_nf4

        base = nn.Linear(20, 36).requires_grad_(False)
        model = nn.Sequential(copy.deepcopy(base))
        add(model, ["0"], ["0"], torch.float32, 2, 3.0, 0.0, seeded())
        base.weight.data = round_to_nf4(base.weight)
        plain = LoraLinear(base, 2, 3.0, 0.0, seeded())
        results = []
        for layer in (model[0], plain):
            nn.init.normal_(layer.lora_B.weight, generator=seeded(3))
            x = torch.randn(5, 20, generator=seeded(4)).requires_grad_()
            layer(x).square().sum().backward()
            results.append((x.grad, layer.lora_A.weight.grad, layer.lora_B.weight.grad))
        torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_without_bitsandbytes_4_bits_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pizero.model.qlora", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes.autograd._functions", None)
    with pytest.raises(ValueError, match=r"pip install \"pizero\[train\]\""):
        import pizero.model.qlora  # noqa: F401


def test_adapters_draw_the_same_numbers_whatever_else_the_model_is(tiny_model: Pi0) -> None:
    other = Pi0(replace(tiny_model.config, horizon=4))
    model = copy.deepcopy(tiny_model)
    for one in (model, other):
        add_lora(one, NAMES, rank=3, alpha=7.0, dropout=0.0, generator=seeded())
    name = "action.layers.1.self_attn.v_proj.lora_A.weight"
    assert torch.equal(model.get_parameter(name), other.get_parameter(name))


def test_the_gradients_of_an_adapted_product_are_those_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    x, a, b = (
        torch.randn(shape, generator=generator).double().requires_grad_() for shape in ((2, 5, 4), (3, 4), (6, 3))
    )
    weight = torch.randn(6, 4, generator=generator).double()

    def product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return AdaptedProduct.apply(x, weight, a, b, 1.7)

    plain = x @ weight.mT + 1.7 * (x @ a.mT) @ b.mT
    assert torch.allclose(product(x, a, b), plain, rtol=1e-12)
    assert torch.autograd.gradcheck(product, (x, a, b))
