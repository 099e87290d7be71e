"""Random mazes after SPiRL's description, and distances in them.

An empty square gets walls until a quarter of it is covered. A wall is straight, 0.3 to 0.5 of the square long, has one door,
and is placed with a probability that falls with the walls already around it, so that walls seldom touch. A layout in which a
free cell cannot be reached is thrown away. Same size, coverage and seed: same maze.
"""

from __future__ import annotations

from collections import deque

import numpy as np

Cell = tuple[int, int]  # (row, column), the border counted
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))
CROWDING = 20.0  # a place is chosen with probability ~ exp(-CROWDING * share of wall around it)
SHORTEST_WALL = 3


def random_layout(size: int = 20, coverage: float = 0.25, seed: int = 0) -> np.ndarray:
    """Walls (True) of a maze of `size` x `size` cells inside a border: bool [size + 2, size + 2]."""
    generator = np.random.default_rng(seed)
    for _ in range(1000):
        walls = _walls(size, coverage, generator)
        start = tuple(np.argwhere(~walls)[0])
        if (distances(walls, (int(start[0]), int(start[1])))[~walls] >= 0).all():
            return walls
    raise ValueError(f"no connected maze of size {size} with coverage {coverage} in 1000 tries; lower the coverage")


def _walls(size: int, coverage: float, generator: np.random.Generator) -> np.ndarray:
    inner = np.zeros((size, size), bool)
    while inner.mean() < coverage:
        length = max(SHORTEST_WALL, int(size * generator.uniform(0.3, 0.5)))
        vertical = bool(generator.integers(2))
        grid = inner.T if vertical else inner  # a view: walls below are horizontal in it
        crowd = _crowding(grid, length)
        chance = np.exp(-CROWDING * crowd)
        row, column = divmod(int(generator.choice(crowd.size, p=(chance / chance.sum()).ravel())), crowd.shape[1])
        door = int(generator.integers(length))
        grid[row, column : column + door] = True
        grid[row, column + door + 1 : column + length] = True
    return np.pad(inner, 1, constant_values=True)


def _crowding(grid: np.ndarray, length: int) -> np.ndarray:
    """Share of wall in the neighbourhood (one cell wider on every side) of each place for a horizontal wall, [rows, places]."""
    padded = np.pad(grid.astype(float), 1)
    sums = np.pad(padded, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    wide = sums[3:, length + 2 :] - sums[:-3, length + 2 :] - sums[3:, : -(length + 2)] + sums[:-3, : -(length + 2)]
    result: np.ndarray = wide / (3 * (length + 2))
    return result


def distances(walls: np.ndarray, origin: Cell) -> np.ndarray:
    """Cells of path from `origin` to every cell, int [rows, columns]; -1 where there is no way or a wall."""
    found = np.full(walls.shape, -1)
    if walls[origin]:
        return found
    found[origin] = 0
    queue = deque([origin])
    while queue:
        row, column = queue.popleft()
        for down, right in NEIGHBOURS:
            cell = (row + down, column + right)
            if 0 <= cell[0] < walls.shape[0] and 0 <= cell[1] < walls.shape[1] and not walls[cell] and found[cell] < 0:
                found[cell] = found[row, column] + 1
                queue.append(cell)
    return found


def downhill(to_goal: np.ndarray, start: Cell) -> list[Cell]:
    """A shortest path along `distances(walls, goal)`: the cells after `start`, the goal last. Empty if there is none."""
    path, cell = [], start
    while to_goal[cell] > 0:
        around = [(cell[0] + down, cell[1] + right) for down, right in NEIGHBOURS]
        cell = next(c for c in around if to_goal[c] == to_goal[cell] - 1)
        path.append(cell)
    return path


def free_cells(walls: np.ndarray) -> list[Cell]:
    return [(int(row), int(column)) for row, column in np.argwhere(~walls)]


def to_xy(cell: Cell, walls: np.ndarray) -> np.ndarray:
    """The middle of a cell in the simulator's coordinates, [2]; cells are 1 wide and the maze is centred on the origin."""
    rows, columns = walls.shape
    return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])


def to_cell(xy: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Rows and columns, int [..., 2], of positions [..., 2]; positions outside are pulled to the border."""
    rows, columns = walls.shape
    row = np.floor(rows / 2 - xy[..., 1])
    column = np.floor(xy[..., 0] + columns / 2)
    return np.stack([row.clip(0, rows - 1), column.clip(0, columns - 1)], -1).astype(int)
