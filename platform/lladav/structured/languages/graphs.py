"""Searches in the graph of an automaton: which states matter, and how long its sequences are.

A graph is given by the sources and targets of its edges, which may be parallel. S states.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra


def useful_states(
    sources: np.ndarray, targets: np.ndarray, start: int, accepting_S: np.ndarray
) -> np.ndarray:
    """Whether each state lies on a path from the start to an accepting state."""
    graph = _graph(sources, targets, len(accepting_S))
    from_start = _distances(graph, np.array([start]))
    return np.isfinite(from_start) & np.isfinite(distances_to_end(sources, targets, accepting_S))


def distances_to_end(sources: np.ndarray, targets: np.ndarray, accepting_S: np.ndarray) -> np.ndarray:
    """Edges from each state to the closest accepting one; infinity if there is no path."""
    graph = _graph(sources, targets, len(accepting_S))
    return _distances(csr_array(graph.T), np.flatnonzero(accepting_S))


def shortest_path(sources: np.ndarray, targets: np.ndarray, start: int, accepting_S: np.ndarray) -> int:
    """Edges of the shortest path from the start to an accepting state; there must be one."""
    graph = _graph(sources, targets, len(accepting_S))
    return int(_distances(graph, np.array([start]))[accepting_S].min())


def longest_path(sources: np.ndarray, targets: np.ndarray, start: int, accepting_S: np.ndarray) -> int | None:
    """Edges of the longest path from the start to an accepting state, or None if there is no longest.

    All states must be useful.
    """
    graph = _graph(sources, targets, len(accepting_S))
    components, _ = connected_components(graph, connection="strong")
    if components < len(accepting_S) or (sources == targets).any():
        return None
    return int(_longest_distances(graph, start)[accepting_S].max())


def _longest_distances(graph: csr_array, start: int) -> np.ndarray:
    """Edges of the longest path from the start to each state of an acyclic graph."""
    num_states = len(graph.indptr) - 1
    longest_S = np.zeros(num_states, dtype=np.int64)
    unvisited_S = np.bincount(graph.indices, minlength=num_states)  # incoming edges
    frontier = np.array([start])
    while len(frontier):
        entered, counts = _successors(graph, frontier)
        np.maximum.at(longest_S, entered, np.repeat(longest_S[frontier] + 1, counts))
        np.subtract.at(unvisited_S, entered, 1)
        entered = np.unique(entered)
        frontier = entered[unvisited_S[entered] == 0]
    return longest_S


def _successors(graph: csr_array, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Successors of some states, joined, and how many each has."""
    spans = zip(graph.indptr[states], graph.indptr[states + 1], strict=True)
    successors = [graph.indices[first:end] for first, end in spans]
    return np.concatenate(successors), np.array([len(each) for each in successors])


def _graph(sources: np.ndarray, targets: np.ndarray, num_states: int) -> csr_array:
    """Adjacency matrix, in which parallel edges are one entry."""
    ones = np.ones(len(sources), dtype=np.int32)
    return csr_array(coo_array((ones, (sources, targets)), shape=(num_states, num_states)))


def _distances(graph: csr_array, from_states: np.ndarray) -> np.ndarray:
    """Edges of the shortest path from any of some states to each state; infinity if there is none."""
    if not len(from_states):
        return np.full(len(graph.indptr) - 1, np.inf)
    return dijkstra(graph, indices=from_states, unweighted=True, min_only=True)
