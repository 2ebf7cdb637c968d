"""What of a dump must wait for the rest, what of it needs not to, and what some tables need."""

from __future__ import annotations

from lifeboat.postgres.contents import Early, Entry, choose_part, read_contents, to_build_early, to_restore_last

# As `pg_restore --verbose --file=-` writes a partitioned table whose trigger is off on one of its partitions.
SCRIPT = """\
--
-- TOC entry 10 (class 1259 OID 100)
-- Name: sales; Type: TABLE; Schema: app; Owner: owner
-- Data Pos: 0
--

CREATE TABLE app.sales (a int) PARTITION BY LIST (a);

--
-- TOC entry 11 (class 1259 OID 101)
-- Name: sales 1; Type: TABLE; Schema: app; Owner: owner
-- Data Pos: 0
--

CREATE TABLE app."sales 1" (a int);

--
-- TOC entry 12 (class 0 OID 0)
-- Dependencies: 11 10
-- Name: sales 1; Type: TABLE ATTACH; Schema: app; Owner: owner
-- Data Pos: 0
--

ALTER TABLE ONLY app.sales ATTACH PARTITION app."sales 1" FOR VALUES IN (1);

--
-- TOC entry 20 (class 2620 OID 200)
-- Dependencies: 10
-- Name: sales noted; Type: TRIGGER; Schema: app; Owner: owner
-- Data Pos: 0
--

CREATE TRIGGER noted AFTER INSERT ON app.sales FOR EACH ROW EXECUTE FUNCTION app.f();

--
-- TOC entry 21 (class 2620 OID 201)
-- Dependencies: 11 11
-- Name: sales 1 noted; Type: TRIGGER; Schema: app; Owner: owner
-- Data Pos: 0
--

ALTER TABLE app."sales 1" DISABLE TRIGGER noted;

--
-- TOC entry 30 (class 3466 OID 300)
-- Name: watching; Type: EVENT TRIGGER; Schema: -; Owner: owner
-- Data Pos: 0
--

CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION app.g();

--
-- TOC entry 31 (class 0 OID 0)
-- Dependencies: 30
-- Name: EVENT TRIGGER watching; Type: COMMENT; Schema: -; Owner: owner
-- Data Pos: 0
--

COMMENT ON EVENT TRIGGER watching IS 'x';
"""


def test_switched_off_triggers_of_partitions_and_event_triggers_come_last() -> None:
    assert to_restore_last(read_contents(SCRIPT)) == {21, 30, 31}


def test_a_partition_alone_is_without_the_trigger_of_its_table_and_says_so() -> None:
    part = choose_part(read_contents(SCRIPT), ["sales 1"])

    assert part.numbers == (11,)
    assert any("sales 1 noted" in note and "app.sales" in note for note in part.notes)


def test_a_table_with_its_partitions_has_their_triggers_as_they_were() -> None:
    assert set(choose_part(read_contents(SCRIPT), ["sales"]).numbers) == {10, 11, 12, 20, 21}


def test_indexes_of_a_tree_with_several_levels_are_attached_last_and_one_by_one() -> None:
    index, attach = "INDEX", "INDEX ATTACH"
    entries = (
        Entry(1, index, "app", "root", ()),
        Entry(2, index, "app", "middle", ()),
        Entry(3, index, "app", "leaf", ()),
        Entry(4, index, "app", "other", ()),
        Entry(5, attach, "app", "middle", (1, 2)),
        Entry(6, attach, "app", "leaf", (2, 3)),
        Entry(7, attach, "app", "other", (1, 4)),
        Entry(8, "FK CONSTRAINT", "app", "orders to_root", (7,)),
        Entry(11, index, "app", "flat", ()),
        Entry(12, index, "app", "flat 1", ()),
        Entry(13, attach, "app", "flat 1", (11, 12)),
    )

    assert to_restore_last(entries) == {5, 6, 7, 8}


TREE = (
    Entry(1, "TABLE", "app", "sales", ()),
    Entry(2, "TABLE", "app", "sales 1", ()),
    Entry(3, "TABLE ATTACH", "app", "sales 1", (2, 1)),
    Entry(4, "TABLE", "app", "customers", ()),
    Entry(10, "CONSTRAINT", "app", "sales sales_pkey", (1,)),
    Entry(11, "CONSTRAINT", "app", "sales 1 sales 1_pkey", (2, 10, 2)),
    Entry(12, "INDEX", "app", "by_day", (1,)),
    Entry(13, "INDEX", "app", "sales 1_day", (2, 12)),
    Entry(14, "INDEX ATTACH", "app", "sales 1_pkey", (11, 10)),
    Entry(15, "INDEX ATTACH", "app", "sales 1_day", (13, 12)),
    Entry(16, "STATISTICS", "app", "together", (2,)),
    Entry(17, "TRIGGER", "app", "sales 1 noted", (2,)),
    Entry(20, "CONSTRAINT", "app", "customers customers_pkey", (4,)),
    Entry(21, "FK CONSTRAINT", "app", "sales 1 customer_fkey", (2, 4, 20)),
    Entry(22, "COMMENT", "app", 'INDEX "sales 1_day"', (13,)),
)


def test_indexes_constraints_and_statistics_of_a_table_can_be_built_before_all_that_concerns_others() -> None:
    streams = {("app", "sales 1"): "rows-0001", ("app", "customers"): "rows-0002"}

    assert to_build_early(TREE, streams) == {"rows-0001": Early([11, 16], [13]), "rows-0002": Early([20], [])}


def test_what_needs_another_index_or_two_tables_is_not_built_early() -> None:
    odd = (
        *TREE,
        Entry(30, "CONSTRAINT", "app", "customers like the primary key", (4, 20)),
        Entry(31, "INDEX", "app", "by customers of sales", (4, 1)),
    )

    assert to_build_early(odd, {("app", "customers"): "rows-0001"}) == {"rows-0001": Early([20], [])}


def test_what_must_come_last_is_not_built_early() -> None:
    tree = (
        *TREE,
        Entry(30, "TABLE", "app", "sales 1 a", ()),
        Entry(31, "TABLE ATTACH", "app", "sales 1 a", (30, 2)),
        Entry(32, "INDEX", "app", "sales 1 a_day", (30, 13)),
        Entry(33, "INDEX ATTACH", "app", "sales 1 a_day", (32, 13)),
        Entry(34, "STATISTICS", "app", "odd", (2, 33)),
    )

    assert to_build_early(tree, {("app", "sales 1"): "rows-0001"}) == {"rows-0001": Early([11, 16], [13])}


def test_nothing_is_built_early_of_tables_without_streams_of_their_own() -> None:
    assert to_build_early(TREE, {("public", "sales 1"): "rows-0001"}) == {}
