import math

import pytest
import torch
from mmpretrain.registry import MODELS

import serkd_mm  # noqa: F401


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(seed=0, **settings):
    torch.manual_seed(seed)
    return MODELS.build(dict(type='RRDLoss', **{'embed_dim': 4, 'queue_size': 8, **settings}))


def embed(layer, features):
    """Rows of norm 1 after a linear map, in float64."""
    mapped = features.double() @ layer.weight.double().T + layer.bias.double()
    return torch.stack([row / row.norm() for row in mapped])


def by_definition(loss, student, teacher, memory, tau_student=0.02, tau_teacher=0.1):
    """Cross-entropy of relations to ``memory``, image by image, in float64."""
    z_s, z_t = embed(loss.student_map, student), embed(loss.teacher_map, teacher)
    total = 0.0
    for own, other in zip(z_s, z_t, strict=True):
        p_s = torch.stack([own @ row / tau_student for row in memory]).softmax(dim=0)
        p_t = torch.stack([other @ row / tau_teacher for row in memory]).softmax(dim=0)
        total = total - (p_t * p_s.log()).sum()
    return total / len(z_s)


def test_value_and_gradient_equal_cross_entropy_of_relations_to_the_queue():
    loss = build(loss_weight=0.7, tau_student=0.3)
    seen = []
    for step, batch in enumerate([2, 3, 1, 4, 3]):  # 13 embeddings in 8 slots, so the queue wraps around.
        student, teacher = tensor(batch, 5, seed=step).requires_grad_(), tensor(batch, 6, seed=10 + step)
        value = loss(student, teacher.requires_grad_())
        seen.extend(embed(loss.teacher_map, teacher.detach()))
        expected = 0.7 * by_definition(loss, student, teacher.detach(), seen[-8:], tau_student=0.3)
        assert (value.ndim, value.dtype) == (0, torch.float32)
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
        wanted = (student, loss.student_map.weight)
        actual = torch.autograd.grad(value, wanted)
        for one, other in zip(actual, torch.autograd.grad(expected, wanted), strict=True):
            torch.testing.assert_close(one, other.to(one), rtol=1e-3, atol=1e-5)
        assert teacher.grad is None


def test_queue_is_first_in_first_out():
    loss = build()
    seen = []
    for step, batch in enumerate([3, 3, 3, 1, 8, 5]):
        teacher = tensor(batch, 6, seed=step)
        loss(tensor(batch, 5), teacher)
        seen.extend(embed(loss.teacher_map, teacher))
        assert loss.num_enqueued == len(seen)
        slots = {index % 8: row for index, row in enumerate(seen)}
        for slot, row in slots.items():
            torch.testing.assert_close(loss.queue[slot].double(), row, rtol=0, atol=1e-6)
    assert not loss.queue.requires_grad


def test_batch_larger_than_the_queue_leaves_its_newest_embeddings():
    loss = build(queue_size=3)
    teacher = tensor(10, 6)
    value = loss(tensor(10, 5), teacher)
    newest = embed(loss.teacher_map, teacher)[-3:]
    assert {tuple(row) for row in loss.queue.numpy().round(5)} == {
        tuple(row) for row in newest.float().detach().numpy().round(5)
    }
    assert value.isfinite()


def test_unused_slots_of_the_queue_are_not_compared():
    large, exact = build(queue_size=1000), build(queue_size=3)
    student, teacher = tensor(3, 5).requires_grad_(), tensor(3, 6, seed=1)
    values, gradients = [], []
    for loss in (large, exact):
        torch.manual_seed(0)
        values.append(loss(student, teacher))
        gradients.append(torch.autograd.grad(values[-1], student)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert gradients[0].isfinite().all()


def test_queue_changes_in_training_only():
    loss = build().eval()
    evaluated = loss(tensor(3, 5), tensor(3, 6))
    assert loss.num_enqueued == 0
    assert not loss.queue.any()
    torch.testing.assert_close(loss.train()(tensor(3, 5), tensor(3, 6)), evaluated)
    assert loss.num_enqueued == 3


def test_linear_layer_of_the_teacher_is_not_trained():
    loss = build()
    loss(tensor(3, 5), tensor(3, 6)).backward()
    assert not any(weight.requires_grad for weight in loss.teacher_map.parameters())
    assert all(weight.grad is not None for weight in loss.student_map.parameters())


def test_tokens_and_maps_are_averaged():
    maps, others = tensor(3, 5, 2, 4), tensor(3, 6, 3, 3, seed=1)
    vectors = maps.mean(dim=(2, 3)), others.mean(dim=(2, 3))
    tokens = maps.flatten(2).mT, others.flatten(2).mT
    values = []
    for student, teacher in (vectors, tokens, (maps, others)):
        values.append(build()(student, teacher))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])
    with pytest.raises(ValueError, match=r'RRDLoss reads'):
        build()(tensor(3), tensor(3))
    with pytest.raises(ValueError, match=r'same images'):
        build()(tensor(3, 5), tensor(2, 5))


def test_resuming_is_bit_exact():
    batches = [(tensor(3, 5, seed=step), tensor(3, 6, seed=9 + step)) for step in range(6)]
    whole = build()
    values = [whole(*batch) for batch in batches]
    first = build()
    for batch in batches[:3]:
        first(*batch)
    second = build(seed=1)
    second.eval()(*batches[0])  # As the dry run does: builds the layers, with other weights.
    second.train().load_state_dict(first.state_dict())
    for batch, value in zip(batches[3:], values[3:], strict=True):
        assert torch.equal(second(*batch), value)
    assert torch.equal(second.queue, whole.queue)


@pytest.mark.parametrize('size', [3, 6, 8, 11, 30])
@pytest.mark.parametrize('batches', [1, 2, 5])
def test_queue_of_another_size_keeps_the_newest_embeddings_in_order(batches, size):
    saved, continued = build(), build(seed=1, queue_size=size)
    seen = []
    for step in range(batches):
        teacher = tensor(3, 6, seed=step)
        saved(tensor(3, 5), teacher)
        seen.extend(embed(saved.teacher_map, teacher))
    continued.eval()(tensor(3, 5), teacher)
    continued.train().load_state_dict(saved.state_dict())
    kept = seen[-min(size, 8) :]
    assert continued.num_enqueued == (len(kept) if size != 8 else len(seen))
    for step in range(2):
        student, teacher = tensor(2, 5, seed=50 + step), tensor(2, 6, seed=60 + step)
        kept.extend(embed(saved.teacher_map, teacher))
        value = continued(student, teacher)
        torch.testing.assert_close(
            value.double(), by_definition(continued, student, teacher, kept[-size:]), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize('name', ['queue', 'num_enqueued'])
def test_queue_without_its_counter_or_of_another_width_starts_empty(name):
    saved, continued = build(), build(embed_dim=5 if name == 'num_enqueued' else 4)
    saved(tensor(3, 5), tensor(3, 6))
    state = {'queue': saved.queue, 'num_enqueued': saved.num_enqueued}
    if name == 'queue':
        del state['queue']
        continued.load_state_dict(state, strict=False)
    else:
        with pytest.raises(RuntimeError, match='size mismatch for queue'):
            continued.load_state_dict(state, strict=False)
    assert continued.num_enqueued == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_promoted_and_autocast_changes_nothing(dtype):
    student, teacher = tensor(3, 5).to(dtype), tensor(3, 6).to(dtype)
    expected = build()(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(build()(student, teacher), expected, rtol=0, atol=0)


def test_defaults_are_those_of_the_paper():
    loss = MODELS.build(dict(type='RRDLoss'))
    assert (loss.tau_teacher, loss.tau_student) == (0.1, 0.02)
    assert loss.queue.shape == (16384, 128)
    assert set(loss.state_dict()) == {'queue', 'num_enqueued'}


@pytest.mark.parametrize('size', [0, -1, 1.5, '8', None])
@pytest.mark.parametrize('name', ['queue_size', 'embed_dim'])
def test_wrong_sizes_raise_when_built(name, size):
    with pytest.raises(ValueError, match=f'{name} must be'):
        build(**{name: size})


@pytest.mark.parametrize('tau', [0, -1.0, math.nan, math.inf, 'warm'])
@pytest.mark.parametrize('name', ['tau_student', 'tau_teacher'])
def test_wrong_temperatures_raise_when_built(name, tau):
    with pytest.raises(ValueError, match=f'{name} must be'):
        build(**{name: tau})
