"""Which columns a column is made of, read from the SQL that dbt compiles a model to.

A column *takes its value* from the columns in its expression, conditions of ``case`` included. Other columns
only *decide rows*:

- those in ``where``, ``having``, ``group by`` and in the condition of an inner join decide for the whole
  relation, which counts as one column more of it, named ``ROWS``;
- those in the condition of a left join, for what is taken from its right side: it is taken to find one row at
  most, so that what stands on its left is the same with it and without;
- those in ``partition by``, ``order by`` and ``filter``, for the one column that they stand in.

What counts or numbers rows and reads no column (``count(*)``, ``row_number()``) takes its value from what
decides them in its own expression.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope
from sqlglot.schema import MappingSchema

from nightshift.warehouse.dbt import Compiled

log = logging.getLogger(__name__)

ROWS = "*"
"""Stands for which rows a relation has, where the name of a column stands otherwise."""

# A relation and a column of it.
Column = tuple[str, str]

# Of a place, from its end.
_PARTS = ("this", "db", "catalog")
# Functions whose rows come from their arguments and nothing else.
_GIVING_ROWS = (exp.GenerateSeries, exp.Unnest, exp.Explode)
_NOTHING: frozenset[Column] = frozenset()
# Conditions that belong to the one expression they stand in.
_CHOOSING: dict[type[exp.Expr], tuple[str, ...]] = {
    exp.Window: ("partition_by", "order", "spec"),
    exp.Filter: ("expression",),
    exp.Order: ("expressions",),
    exp.WithinGroup: ("expression",),
}


@dataclass(frozen=True)
class Reads:
    """What a column is made of.

    Attributes:
        value: The columns that it takes its value from.
        rows: Those that decide which rows that value comes from.
    """

    value: frozenset[Column] = _NOTHING
    rows: frozenset[Column] = _NOTHING

    def __or__(self, other: Reads) -> Reads:
        return Reads(self.value | other.value, self.rows | other.rows)

    @property
    def all(self) -> frozenset[Column]:
        """Return both kinds."""
        return self.value | self.rows

    @property
    def deciding(self) -> Reads:
        """Return the same where it decides rows and nothing else."""
        return Reads(_NOTHING, self.all)


@dataclass(frozen=True)
class Relation:
    """A relation, and what each of its columns, and ``ROWS``, is made of; nothing for what is loaded.

    ``unread`` says why its SQL could not be followed; empty where it could. Each of its columns is then taken
    to be made of all columns of the relations that it reads.
    """

    name: str
    columns: dict[str, Reads]
    unread: str = ""


def trace(compiled: Compiled, loaded: Mapping[str, Iterable[str]]) -> dict[str, Relation]:
    """Return every relation of a project by name, those that are loaded first, then each after what it reads.

    Args:
        compiled: The project.
        loaded: The columns of the tables that its sources name.
    """
    places: dict[tuple[str, ...], str] = {}
    found: dict[str, Relation] = {}
    for name, place in compiled.sources.items():
        places[_place(exp.to_table(place, dialect=compiled.dialect))] = name
        found[name] = Relation(name, dict.fromkeys(loaded.get(name, ()), Reads()))
    for model in compiled.models:
        try:
            columns = read_sql(model.sql, compiled.dialect, places, found)
            found[model.name] = Relation(model.name, columns)
        except (SqlglotError, _UnreadableError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            log.warning("the columns of %s cannot be followed: %s", model.name, reason)
            everything = Reads(
                frozenset(
                    (other, column)
                    for other in model.reads
                    if other in found
                    for column in (*found[other].columns, ROWS)
                )
            )
            names = dict.fromkeys(model.columns, everything)
            found[model.name] = Relation(model.name, {**names, ROWS: everything.deciding}, reason)
        places[_place(exp.to_table(model.place, dialect=compiled.dialect))] = model.name
    return found


def read_sql(
    sql: str, dialect: str, places: Mapping[tuple[str, ...], str], relations: Mapping[str, Relation]
) -> dict[str, Reads]:
    """Return what each column of a query, and ``ROWS``, is made of.

    Args:
        sql: The query.
        dialect: Name of the engine.
        places: Names of relations by catalog, schema and table, in small letters.
        relations: The relations themselves, by name.

    Raises:
        SqlglotError: It is no query, or names a column that is not there.
    """
    schema = MappingSchema(dialect=dialect)
    for place, name in places.items():
        columns = {column: "text" for column in relations[name].columns if column != ROWS}
        table = exp.Table(
            **{part: exp.to_identifier(of) for part, of in zip(_PARTS, reversed(place), strict=False)}
        )
        schema.add_table(table, columns, dialect=dialect)
    query = qualify(
        parse_one(sql, dialect=dialect),
        dialect=dialect,
        schema=schema,
        identify=False,
        quote_identifiers=False,
    )
    scope = build_scope(query)
    if scope is None or not isinstance(query, exp.Query):
        raise _UnreadableError("it is no query")
    reader = _Reader(places, relations, {id(one.expression): one for one in scope.traverse()})
    made = {name: reader.column(scope, name) for name in query.named_selects}
    return {**made, ROWS: Reads(_NOTHING, reader.rows(scope))}


class _UnreadableError(Exception):
    """A query has something that this module does not understand."""


def _place(table: exp.Table) -> tuple[str, ...]:
    return tuple(part.name.lower() for part in table.parts)


@dataclass
class _Reader:
    """Follows columns from the outermost query inwards, through each scope once."""

    places: Mapping[tuple[str, ...], str]
    relations: Mapping[str, Relation]
    scopes: Mapping[int, Scope]
    columns: dict[tuple[int, str], Reads] = field(default_factory=dict)
    of_scope: dict[int, frozenset[Column]] = field(default_factory=dict)

    def column(self, scope: Scope, name: str) -> Reads:
        """Return what a column of a query is made of."""
        key = (id(scope), name)
        if key not in self.columns:
            self.columns[key] = Reads()  # A recursive query comes back here.
            self.columns[key] = self._column(scope, name)
        return self.columns[key]

    def rows(self, scope: Scope) -> frozenset[Column]:
        """Return what decides which rows a query has."""
        if id(scope) not in self.of_scope:
            self.of_scope[id(scope)] = _NOTHING
            self.of_scope[id(scope)] = self._rows(scope)
        return self.of_scope[id(scope)]

    def _column(self, scope: Scope, name: str) -> Reads:
        query: exp.Expr = scope.expression
        if isinstance(query, exp.SetOperation):
            names = query.named_selects
            place = names.index(name) if name in names else 0
            branches = _branches(scope)
            if query.args.get("by_name"):
                return _union(self.column(one, name) for one in branches if name in _names(one))
            return _union(self.column(one, _names(one)[place]) for one in branches)
        if isinstance(query, exp.UDTF):
            return _union(self._named(scope, one) for one in query.find_all(exp.Column))
        if isinstance(query, exp.Subquery):
            return _union(self.column(one, name) for one in scope.subquery_scopes)
        if not isinstance(query, exp.Select):
            raise _UnreadableError(f"{type(query).__name__} is not understood")
        for projection in query.selects:
            if projection.alias_or_name == name:
                return self._expression(scope, projection)
        raise _UnreadableError(f"there is no column {name}")

    def _expression(self, scope: Scope, node: exp.Expr) -> Reads:
        """Return what an expression is made of."""
        if isinstance(node, exp.Column):
            return self._named(scope, node)
        if isinstance(node, exp.Query) and not isinstance(node, exp.Subquery):
            inner = next((one for one in scope.subquery_scopes if one.expression is node), None)
            if inner is None:
                raise _UnreadableError("a subquery is not understood")
            values = _union(self.column(inner, name) for name in node.named_selects)
            return values | Reads(_NOTHING, self.rows(inner))
        choosing = next((args for kind, args in _CHOOSING.items() if isinstance(node, kind)), ())
        made, chosen = Reads(), Reads()
        for name, child in _children(node):
            if name in choosing:
                chosen |= self._expression(scope, child)
            else:
                made |= self._expression(scope, child)
        if isinstance(node, exp.Window) and node.args.get("alias"):
            chosen |= self._window(scope, node.args["alias"].name)
        # What reads no column counts or numbers the rows themselves.
        return made | (chosen.deciding if made.value else chosen)

    def _window(self, scope: Scope, name: str) -> Reads:
        """Return what a window that the query names is made of."""
        for window in scope.expression.args.get("windows") or ():
            if window.name == name:
                parts = [child for arg, child in _children(window) if arg in _CHOOSING[exp.Window]]
                base = window.args.get("alias")
                return _union(self._expression(scope, part) for part in parts) | (
                    self._window(scope, base.name) if base else Reads()
                )
        raise _UnreadableError(f"there is no window {name}")

    def _named(self, scope: Scope, column: exp.Column) -> Reads:
        """Return what a name within a query stands for."""
        name, table = column.name, column.table
        if not table:
            # An alias of the same query, as `order by` may name it.
            if name in _names(scope):
                return self.column(scope, name)
            raise _UnreadableError(f"nobody knows whose column {name} is")
        source = scope.sources.get(table)
        if source is None:
            # A subquery may name what the query around it reads.
            if scope.parent is None:
                raise _UnreadableError(f"nobody knows what {table} is")
            return self._named(scope.parent, column)
        if isinstance(source, Scope):
            # Within a recursive query, its name stands for a scope that nobody has looked into.
            found = self.column(self.scopes.get(id(source.expression), source), name)
        elif (relation := self._relation(source)) is not None:
            # The query's names are in small letters where the engine does not tell them apart.
            spelled = (one for one in self.relations[relation].columns if one.lower() == name.lower())
            found = Reads(frozenset({(relation, next(spelled, name))}))
        else:
            # A function that gives rows.
            found = self._expression(scope, source.this)
        return found | Reads(_NOTHING, self._guard(scope, table))

    def _relation(self, table: exp.Table) -> str | None:
        if isinstance(table.this, _GIVING_ROWS):
            return None
        if not isinstance(table.this, exp.Identifier):
            raise _UnreadableError(f"nobody knows what {table.sql()} reads")
        place = _place(table)
        if place not in self.places:
            raise _UnreadableError(f"{table.sql()} is no relation of the project")
        return self.places[place]

    def _rows(self, scope: Scope) -> frozenset[Column]:
        query = scope.expression
        if isinstance(query, exp.SetOperation):
            found = frozenset[Column]().union(*(self.rows(one) for one in _branches(scope)))
            if query.args.get("distinct") or not isinstance(query, exp.Union):
                found |= _union(self.column(scope, name) for name in query.named_selects).all
            return found
        if isinstance(query, exp.Subquery):
            return frozenset[Column]().union(*(self.rows(one) for one in scope.subquery_scopes))
        if not isinstance(query, exp.Select):
            return _NOTHING
        found = _NOTHING
        if (first := query.args.get("from_")) is not None:
            found |= self._source_rows(scope, first.this.alias_or_name)
        for join in query.args.get("joins") or ():
            if join.side.upper() != "LEFT":
                found |= self._joined(scope, join)
        conditions = [query.args.get(name) for name in ("where", "having", "qualify", "group")]
        if query.args.get("limit") or query.args.get("offset"):
            conditions.append(query.args.get("order"))
        deciding = [one for one in conditions if one is not None]
        group = query.args.get("group")
        if group is not None and group.args.get("all"):
            deciding += [one for one in query.selects if one.find(exp.AggFunc) is None]
        if query.args.get("distinct"):
            deciding += query.selects
        return found | _union(self._expression(scope, one) for one in deciding).all

    def _joined(self, scope: Scope, join: exp.Join) -> frozenset[Column]:
        """Return what decides which rows a join finds."""
        condition = join.args.get("on")
        found = self._expression(scope, condition).all if condition is not None else _NOTHING
        return found | self._source_rows(scope, join.this.alias_or_name)

    def _guard(self, scope: Scope, table: str) -> frozenset[Column]:
        """Return what decides which rows of a source a query finds, where that decides nothing else of it."""
        key = (id(scope), f"join {table}")
        if key not in self.columns:
            self.columns[key] = Reads()  # The condition names the source itself.
            joins = scope.expression.args.get("joins") or () if scope.expression else ()
            join = next((one for one in joins if one.this.alias_or_name == table), None)
            if join is not None and join.side.upper() == "LEFT":
                self.columns[key] = Reads(_NOTHING, self._joined(scope, join))
        return self.columns[key].rows

    def _source_rows(self, scope: Scope, table: str) -> frozenset[Column]:
        source = scope.sources.get(table)
        if isinstance(source, Scope):
            return self.rows(self.scopes.get(id(source.expression), source))
        if source is None or (relation := self._relation(source)) is None:
            return _NOTHING
        return frozenset({(relation, ROWS)})


def _children(node: exp.Expr) -> Iterator[tuple[str, exp.Expr]]:
    for name, value in node.args.items():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, exp.Expr):
                yield name, child


def _names(scope: Scope) -> list[str]:
    """Return the names of a query's columns."""
    return scope.expression.named_selects if isinstance(scope.expression, exp.Query) else []


def _branches(scope: Scope) -> list[Scope]:
    return list(scope.set_operation_scopes or ())


def _union(found: Iterable[Reads]) -> Reads:
    both = Reads()
    for one in found:
        both |= one
    return both
