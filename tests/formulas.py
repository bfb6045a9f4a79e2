"""The paper's equations written down a second time, element by element in float64: the tests compare the package with them.

This file must not import the package: an equation that is wrong there would then be wrong here too.
"""

import torch


def formula_normalized_distances(tokens):
    """The potential of equation 1, pair by pair, of tokens ``(B, L, C)``; ``nu`` is the mean over different tokens."""
    num = tokens.shape[1]
    potentials = []
    for image in tokens.double():
        distances = torch.stack([torch.stack([(x - y).norm() for y in image]) for x in image])
        potentials.append(distances / (distances.sum() / (num * (num - 1))))
    return torch.stack(potentials)


def formula_distance_loss(student, teacher):
    """Equations 1, 2 and 10, pair by pair."""
    pairs = zip(*(formula_normalized_distances(tokens).flatten() for tokens in (student, teacher)), strict=True)
    return sum(_huber(x, y) for x, y in pairs) / (student.shape[0] * student.shape[1] ** 2)


def formula_angle_loss(student, teacher):
    """Equations 2, 3 and 11, triplet by triplet; a direction between equal tokens is the zero vector."""
    images, num, _ = student.shape
    total = 0.0
    for b in range(images):
        for i in range(num):
            for j in range(num):
                for k in range(num):
                    cosines = []
                    for tokens in (student[b].double(), teacher[b].double()):
                        first, second = tokens[j] - tokens[i], tokens[k] - tokens[i]
                        norms = first.norm() * second.norm()
                        cosines.append(first @ second / norms if norms > 0 else torch.zeros((), dtype=torch.float64))
                    total += _huber(*cosines)
    return total / (images * num**3)


def _huber(x, y):
    difference = (x - y).abs()
    return 0.5 * difference**2 if difference <= 1 else difference - 0.5


def dense_superpixels(grid, cell, num_iters):
    """Equations 7 and 8 token by token in float64: superpixels ``(B, M, C)`` and association ``(B, N, M)``."""
    results = [_dense_superpixels_of_image(image.double(), cell, num_iters) for image in grid]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _dense_superpixels_of_image(image, cell, num_iters):
    channels, height, width = image.shape
    rows, columns = -(-height // cell), -(-width // cell)
    tokens = {(y, x): image[:, y, x] for y in range(height) for x in range(width)}

    def mean_of_cell(row, column):
        members = [
            tokens[min(y, height - 1), min(x, width - 1)]
            for y in range(row * cell, (row + 1) * cell)
            for x in range(column * cell, (column + 1) * cell)
        ]
        return torch.stack(members).mean(dim=0)

    superpixels = {(r, c): mean_of_cell(r, c) for r in range(rows) for c in range(columns)}
    for _ in range(num_iters):
        association = {}
        for (y, x), token in tokens.items():
            near = [
                (r, c) for r in range(rows) for c in range(columns) if abs(r - y // cell) <= 1 and abs(c - x // cell) <= 1
            ]
            scores = torch.stack([token @ superpixels[place] for place in near]) / channels**0.5
            for place, weight in zip(near, torch.softmax(scores, dim=0), strict=True):
                association[(y, x), place] = weight
        superpixels = {
            place: sum(association[where, place] * token for where, token in tokens.items() if (where, place) in association)
            / sum(association[where, place] for where in tokens if (where, place) in association)
            for place in superpixels
        }
    zero = torch.zeros((), dtype=torch.float64)
    matrix = torch.stack([torch.stack([association.get((where, place), zero) for place in superpixels]) for where in tokens])
    return torch.stack(list(superpixels.values())), matrix


def optional_superpixels(grid, cell, num_iters, normalize=False, tau=1.0, exclude_self=False):
    """Superpixels with the options that are not the paper's, token by token in float64, as :func:`dense_superpixels`.

    ``cell`` is a size, or ``('grid', rows, columns)`` for overlapping cells as in adaptive pooling.
    """
    results = [_optional_of_image(image.double(), cell, num_iters, normalize, tau, exclude_self) for image in grid]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _optional_of_image(image, cell, num_iters, normalize, tau, exclude_self):
    channels, height, width = image.shape
    tokens = {(y, x): image[:, y, x] for y in range(height) for x in range(width)}
    compared = {where: _layer_normalized(token) for where, token in tokens.items()} if normalize else tokens
    own = {
        (y, x): (row, column)
        for (y, row) in enumerate(_own_cells(height, cell, 0))
        for (x, column) in enumerate(_own_cells(width, cell, 1))
    }
    ranges = [_cell_ranges(size, cell, axis) for axis, size in enumerate((height, width))]
    weights = {}
    for r, members_y in enumerate(ranges[0]):
        for c, members_x in enumerate(ranges[1]):
            weights[r, c] = {}
            for y in members_y:
                for x in members_x:
                    one = torch.ones((), dtype=torch.float64) / (len(members_y) * len(members_x))
                    weights[r, c][y, x] = weights[r, c].get((y, x), 0) + one
    for _ in range(num_iters):
        probabilities = {}
        for where, (row, column) in own.items():
            near = [(r, c) for r, c in weights if abs(r - row) <= 1 and abs(c - column) <= 1]
            scores = [_score(compared, where, weights[place], exclude_self) for place in near]
            softmax = torch.softmax(torch.stack(scores) / channels**0.5 / tau, dim=0)
            probabilities.update({(where, place): p for place, p in zip(near, softmax, strict=True)})
        for place in weights:
            column = {where: probabilities[where, place] for where in tokens if (where, place) in probabilities}
            weights[place] = {where: p / sum(column.values()) for where, p in column.items()}
    superpixels = [sum(w * tokens[where] for where, w in members.items()) for members in weights.values()]
    zero = torch.zeros((), dtype=torch.float64)
    matrix = [torch.stack([probabilities.get((where, place), zero) for place in weights]) for where in tokens]
    return torch.stack(superpixels), torch.stack(matrix)


def _score(tokens, where, members, exclude_self):
    """The product of a token and a center, or the center of the other tokens if there are any."""
    others = {other: w for other, w in members.items() if other != where} if exclude_self else members
    others = others if others and sum(others.values()) > 0 else members
    return sum(w * (tokens[where] @ tokens[other]) for other, w in others.items()) / sum(others.values())


def _layer_normalized(token):
    return (token - token.mean()) / ((token - token.mean()).square().mean() + 1e-6).sqrt()


def _own_cells(size, cell, axis):
    """The cell of each row or column of tokens."""
    if isinstance(cell, int):
        return [place // cell for place in range(size)]
    return [int((place + 0.5) * cell[1 + axis] / size) for place in range(size)]


def _cell_ranges(size, cell, axis):
    """The rows or columns of tokens of each cell; padding repeats the last one."""
    if isinstance(cell, int):
        return [[min(cell * k + i, size - 1) for i in range(cell)] for k in range(-(-size // cell))]
    number = cell[1 + axis]
    return [list(range(k * size // number, -(-(k + 1) * size // number))) for k in range(number)]


def sekd_terms(student, teacher, cutoff):
    """Vertex, edge and spectral term of one image ``(L, C)`` as :class:`ChannelGraphLoss` defines them, in float64."""
    student, teacher = student.double(), teacher.double()
    strength = [teacher[:, c].abs().sum() for c in range(teacher.shape[1])]
    cosines = {}
    for name, first, second in (('s', student, student), ('t', teacher, teacher), ('st', student, teacher)):
        rows = [[_cosine(x, y) for y in second.T] for x in first.T]
        cosines[name] = torch.stack([torch.stack(row) for row in rows])
    vertices = sum(a / sum(strength) * (1 - cosines['st'][c, c]) for c, a in enumerate(strength))
    edges = (cosines['s'] - cosines['t']).square().mean()
    own, other = (spectral_projection(cosines[name], cutoff) for name in 'st')
    return vertices, edges, (own - other).square().sum() / other.square().sum()


def _cosine(x, y):
    return (x @ y) / (x.norm() * y.norm())


def spectral_projection(adjacency, cutoff, rotate=None):
    """U diag(lambda / (lambda + cutoff C)) U^T; ``rotate`` seeds signs, and rotations within each eigenspace."""
    values, vectors = torch.linalg.eigh(adjacency)
    if rotate is not None:
        generator = torch.Generator().manual_seed(rotate)
        for value in values.round(decimals=8).unique():
            same = (values - value).abs() < 1e-6
            size = int(same.sum())
            rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
            vectors[:, same] = vectors[:, same] @ rotation
    weights = values / (values + cutoff * len(values))
    return vectors @ torch.diag(weights) @ vectors.T


def vitkd_mimicking(student, teacher, weight, bias):
    """ViTKD's mimicking loss, number by number: squared error of mapped tokens, summed, over the number of images."""
    total = 0.0
    for own, other in zip(student.double().flatten(0, 1), teacher.double().flatten(0, 1), strict=True):
        for c in range(len(other)):
            total += (sum(weight[c, d].double() * own[d] for d in range(len(own))) + bias[c].double() - other[c]) ** 2
    return total / len(student)


def vitkd_generation(student, teacher, masked, grid, layers, mask_ratio):
    """ViTKD's generation loss, position by position; ``layers`` has weight and bias of the map, the mask token and convs."""
    weight, bias, mask_token, first, first_bias, second, second_bias = (layer.double() for layer in layers)
    total = 0.0
    for image in range(len(student)):
        places = {}
        for number, token in enumerate(student[image].double()):
            places[divmod(number, grid[1])] = mask_token if masked[image, number] else weight @ token + bias
        hidden = {place: value.clamp(min=0) for place, value in _conv3x3(places, first, first_bias).items()}
        rebuilt = _conv3x3(hidden, second, second_bias)
        for number, token in enumerate(teacher[image].double()):
            if masked[image, number]:
                total += (rebuilt[divmod(number, grid[1])] - token).square().sum()
    return total / len(student) / mask_ratio


def _conv3x3(places, kernel, bias):
    """A 3x3 convolution of vectors by (row, column), which are 0 outside."""
    return {
        (r, c): bias
        + sum(
            kernel[:, :, dr + 1, dc + 1] @ places[r + dr, c + dc]
            for dr in (-1, 0, 1)
            for dc in (-1, 0, 1)
            if (r + dr, c + dc) in places
        )
        for r, c in places
    }


def gram_cka(x, y):
    """Linear CKA of rows ``(N, C)`` by centered matrices of similarities between rows, ``(N, N)``."""
    num = len(x)
    centering = torch.eye(num, dtype=torch.float64) - 1 / num
    own, other = (centering @ rows.double() @ rows.double().T @ centering for rows in (x, y))
    return (own * other).sum() / ((own * own).sum() * (other * other).sum()).sqrt()


def formula_dist(student, teacher, beta, gamma, tau):
    """DIST: one minus Pearson's correlation of the probabilities, of each image and of each class; ``(B, K)``."""
    student, teacher = (_probabilities(logits, tau) for logits in (student, teacher))
    images, classes = len(student), len(student[0])
    inter = sum(1 - _pearson(student[b], teacher[b]) for b in range(images)) / images
    columns = [[[row[k] for row in side] for side in (student, teacher)] for k in range(classes)]
    intra = sum(1 - _pearson(*pair) for pair in columns) / classes
    return tau**2 * (beta * inter + gamma * intra)


def formula_dkd(student, teacher, classes, alpha, beta, tau):
    """DKD: divergence of (p_y, 1 - p_y), and of the probabilities of the other classes among themselves."""
    total = 0.0
    for b, own in enumerate(classes):
        p_student, p_teacher = (_probabilities(logits, tau)[b] for logits in (student, teacher))
        pairs = [(p_student[own], p_teacher[own])]
        pairs.append(tuple(sum(p for k, p in enumerate(side) if k != own) for side in (p_student, p_teacher)))
        total += alpha * sum(t * (t / s).log() for s, t in pairs)
        total += beta * sum(t * (t / s).log() for s, t in zip(*_without(student, teacher, b, own, tau), strict=True))
    return tau**2 * total / len(classes)


def formula_nkd(student, teacher, classes, gamma, tau):
    """NKD: cross-entropy of the class of the label, and of the probabilities of the other classes among themselves."""
    total = 0.0
    for b, own in enumerate(classes):
        p_student, p_teacher = (_probabilities(logits, 1)[b] for logits in (student, teacher))
        total -= p_teacher[own] * p_student[own].log()
        pairs = zip(*_without(student, teacher, b, own, tau), strict=True)
        total -= gamma * tau**2 * sum(t * s.log() for s, t in pairs)
    return total / len(classes)


def formula_dense_logits(student, teacher, ratio):
    """The third term of CSKD, of dense logits ``(B, L, K)``."""
    images, positions, classes = student.shape
    total = 0.0
    for b in range(images):
        mean = [sum(teacher[b, i, k].double() for i in range(positions)) / positions for k in range(classes)]
        for i in range(positions):
            mixed = [float(ratio * teacher[b, i, k].double() + (1 - ratio) * mean[k]) for k in range(classes)]
            total -= _probabilities(student[b], 1)[i][mixed.index(max(mixed))].log()
    return total / (images * positions)


def _without(student, teacher, image, own, tau):
    """The probabilities of the classes other than ``own`` among themselves."""
    others = [k for k in range(student.shape[1]) if k != own]
    return [_probabilities(logits[image, others][None], tau)[0] for logits in (student, teacher)]


def _probabilities(logits, tau):
    """The softmax of each row, as lists."""
    rows = []
    for row in logits.double():
        powers = [((x - row.max()) / tau).exp() for x in row]
        rows.append([power / sum(powers) for power in powers])
    return rows


def _pearson(first, second):
    """Pearson's correlation coefficient of two lists, with DIST's 1e-8 added to the product of the norms."""
    first, second = ([x - sum(values) / len(values) for x in values] for values in (first, second))
    squares = [sum(x * x for x in values) for values in (first, second)]
    norms = [square.sqrt() if square > 0 else square for square in squares]
    return sum(x * y for x, y in zip(first, second, strict=True)) / (norms[0] * norms[1] + 1e-8)
