"""Columns followed through SQL as people write it."""

from __future__ import annotations

import pytest

from nightshift.warehouse.columns import ROWS, Reads, Relation, read_sql, trace
from nightshift.warehouse.dbt import Compiled, CompiledModel

PLACES = {("w", "s", "orders"): "orders", ("w", "s", "shops"): "shops", ("w", "s", "other"): "other"}
COLUMNS = {
    "orders": ("id", "shop", "day", "amount", "paid", "tags"),
    "shops": ("shop", "city", "day"),
    "other": ("id", "amount"),
}
RELATIONS = {name: Relation(name, dict.fromkeys(columns, Reads())) for name, columns in COLUMNS.items()}


def _read(sql: str, dialect: str = "duckdb") -> dict[str, tuple[set[str], set[str]]]:
    """Return values and rows of each column as ``relation.column``."""
    found = read_sql(sql, dialect, PLACES, RELATIONS)
    return {
        name: ({".".join(one) for one in reads.value}, {".".join(one) for one in reads.rows})
        for name, reads in found.items()
    }


def test_a_star_stands_for_every_column_through_several_queries() -> None:
    found = _read(
        "with a as (select * from w.s.shops), b as (select *, city || '!' as loud from a) select * from b"
    )
    assert found == {
        "shop": ({"shops.shop"}, set()),
        "city": ({"shops.city"}, set()),
        "day": ({"shops.day"}, set()),
        "loud": ({"shops.city"}, set()),
        ROWS: (set(), {"shops.*"}),
    }


def test_a_star_of_one_side_and_columns_left_out_or_replaced() -> None:
    found = _read("select o.* exclude (tags) replace (amount / 100 as amount), s.city "
                  "from w.s.orders o join w.s.shops s using (shop)")  # fmt: skip
    assert set(found) == {"id", "shop", "day", "amount", "paid", "city", ROWS}
    assert found["amount"] == ({"orders.amount"}, set())
    assert found[ROWS][1] == {"orders.*", "shops.*", "orders.shop", "shops.shop"}


def test_an_inner_join_decides_all_rows_and_a_left_join_what_it_brings() -> None:
    inner = _read("select o.amount, s.city from w.s.orders o join w.s.shops s on o.shop = s.shop")
    assert inner["amount"] == ({"orders.amount"}, set())
    assert inner[ROWS][1] == {"orders.*", "shops.*", "orders.shop", "shops.shop"}
    left = _read("select o.amount, s.city from w.s.orders o left join w.s.shops s on o.shop = s.shop")
    assert left["amount"] == ({"orders.amount"}, set())
    assert left["city"] == ({"shops.city"}, {"shops.*", "orders.shop", "shops.shop"})
    assert left[ROWS][1] == {"orders.*"}


def test_what_a_left_joined_query_filters_stays_with_what_it_brings() -> None:
    found = _read("""
        with some as (select shop, city from w.s.shops where day > date '2020-01-01')
        select o.id, coalesce(some.city, 'none') as city, o.amount
        from w.s.orders o left join some on o.shop = some.shop
    """)
    assert found["city"] == ({"shops.city"}, {"shops.*", "shops.day", "shops.shop", "orders.shop"})
    assert found["id"] == ({"orders.id"}, set())
    assert found[ROWS][1] == {"orders.*"}


def test_filters_and_groups_decide_the_rows_of_the_relation() -> None:
    found = _read(
        "select shop, sum(amount) as total from w.s.orders where paid group by 1 having max(day) > '2020'"
    )
    assert found["total"] == ({"orders.amount"}, set())
    assert found[ROWS][1] == {"orders.*", "orders.paid", "orders.shop", "orders.day"}


def test_a_condition_of_case_is_part_of_the_value_and_that_of_filter_decides_rows() -> None:
    found = _read("""
        select sum(case when paid then amount end) as by_case, sum(amount) filter (where paid) as by_filter,
            count(*) filter (where paid) as number
        from w.s.orders
    """)
    assert found["by_case"] == ({"orders.amount", "orders.paid"}, set())
    assert found["by_filter"] == ({"orders.amount"}, {"orders.paid"})
    # A count is made of nothing else.
    assert found["number"] == ({"orders.paid"}, set())


@pytest.mark.parametrize("window", ["over (partition by shop order by day)", "over w"])
def test_windows_named_or_not(window: str) -> None:
    named = " window w as (partition by shop order by day)" if window.endswith(" w") else ""
    found = _read(f"select lag(amount) {window} as before, row_number() {window} as turn, "
                  f"count(*) {window} as number from w.s.orders{named}")  # fmt: skip
    assert found["before"] == ({"orders.amount"}, {"orders.shop", "orders.day"})
    assert found["turn"] == found["number"] == ({"orders.shop", "orders.day"}, set())


def test_a_row_that_a_number_chooses() -> None:
    found = _read("""
        with numbered as (
            select *, row_number() over (partition by shop order by day desc) as turn from w.s.orders
        )
        select shop, max(amount) filter (where turn = 1) as newest from numbered group by shop
    """)
    assert found["newest"] == ({"orders.amount"}, {"orders.shop", "orders.day"})


def test_unions_join_columns_by_their_place_or_name() -> None:
    by_place = _read("select id, amount from w.s.orders union all select amount, id from w.s.other")
    assert by_place["id"] == ({"orders.id", "other.amount"}, set())
    assert by_place[ROWS][1] == {"orders.*", "other.*"}
    by_name = _read("select id, amount from w.s.orders union all by name select amount, id from w.s.other")
    assert by_name["id"] == ({"orders.id", "other.id"}, set())
    # Without `all`, equal rows become one: every column decides.
    once = _read("select shop from w.s.orders union select shop from w.s.shops")
    assert once[ROWS][1] == {"orders.*", "shops.*", "orders.shop", "shops.shop"}


def test_subqueries_in_expressions_and_conditions() -> None:
    found = _read("""
        select id, (select max(s.city) from w.s.shops s where s.shop = o.shop) as city
        from w.s.orders o
        where exists (select 1 from w.s.other x where x.id = o.id) and shop in (select shop from w.s.shops)
    """)
    assert found["city"] == ({"shops.city"}, {"shops.*", "shops.shop", "orders.shop"})
    assert found[ROWS][1] == {
        "orders.*",
        "orders.id",
        "orders.shop",
        "other.*",
        "other.id",
        "shops.*",
        "shops.shop",
    }


def test_functions_that_give_rows() -> None:
    found = _read("""
        select o.id, days.n, tag.word from w.s.orders o
        cross join generate_series(1, 3) as days (n), unnest(o.tags) as tag (word)
    """)
    assert found["id"] == ({"orders.id"}, set())
    assert found["n"] == (set(), set())
    assert found["word"] == ({"orders.tags"}, set())


def test_order_within_an_aggregate() -> None:
    found = _read("""
        select array_agg(amount order by day) as listed,
            percentile_cont(0.5) within group (order by amount) as middle
        from w.s.orders
    """)
    assert found["listed"] == ({"orders.amount"}, {"orders.day"})
    assert found["middle"][0] == {"orders.amount"}


def test_a_query_that_reads_itself_comes_to_an_end() -> None:
    found = _read("""
        with recursive up as (
            select id, amount from w.s.other
            union all
            select o.id, up.amount + 1 from w.s.orders o join up on o.id = up.id
        )
        select * from up
    """)
    assert found["amount"][0] == {"other.amount"}


def test_distinct_and_limit_decide_rows() -> None:
    assert _read("select distinct shop from w.s.orders")[ROWS][1] == {"orders.*", "orders.shop"}
    assert _read("select id from w.s.orders order by day limit 5")[ROWS][1] == {"orders.*", "orders.day"}
    # Without a limit, order is nothing that a relation keeps.
    assert _read("select id from w.s.orders order by day")[ROWS][1] == {"orders.*"}


def test_the_same_on_the_other_engine() -> None:
    sql = """
        with lagged as not materialized (select shop, day + 1 as day, amount from "w"."s"."orders")
        select s.city, extract(isodow from lagged.day) as weekday,
            (lagged.day at time zone 'UTC')::date - interval '1 hours' as at
        from w.s.shops s left join lagged on s.shop = lagged.shop
    """
    assert _read(sql, "postgres") == _read(sql, "duckdb")


def _compiled(*sql: str) -> Compiled:
    models = tuple(
        CompiledModel(name=f"m{number}", place=f'"w"."s"."m{number}"', sql=text, file="", columns=("a", "b"),
                      reads=("orders",))
        for number, text in enumerate(sql)
    )  # fmt: skip
    return Compiled(dialect="duckdb", sources={"orders": '"w"."raw"."orders"'}, models=models)


def test_models_follow_each_other() -> None:
    first = 'select id as a, amount as b from "w"."raw"."orders"'
    project = _compiled(first, 'select b + 1 as c from "w"."s"."m0"')
    found = trace(project, {"orders": COLUMNS["orders"]})
    assert list(found) == ["orders", "m0", "m1"]
    assert found["m1"].columns["c"] == Reads(frozenset({("m0", "b")}))


def test_the_spelling_of_the_catalogue_is_kept() -> None:
    found = trace(_compiled('select ORDERID as a from "w"."raw"."orders"'), {"orders": ("OrderId",)})
    assert found["m0"].columns["a"].value == {("orders", "OrderId")}


@pytest.mark.parametrize(
    "sql",
    [
        "select nothing from",
        'select unknown from "w"."raw"."orders"',
        "drop table x",
        "select a from read_parquet('x')",
        'select a from "w"."raw"."elsewhere"',
    ],
)
def test_sql_that_cannot_be_followed_is_said_and_overstates(sql: str) -> None:
    found = trace(_compiled(sql, 'select a from "w"."s"."m0"'), {"orders": ("id", "day")})
    assert found["m0"].unread
    assert found["m0"].columns["a"].value == {("orders", "id"), ("orders", "day"), ("orders", ROWS)}
    # What follows it is read.
    assert found["m1"].columns["a"].value == {("m0", "a")}
    assert not found["m1"].unread
