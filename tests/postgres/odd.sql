-- A database that holds one of everything a dump could lose. Run as a superuser; belongs to odd_owner.
CREATE ROLE "odd reader" NOLOGIN;
CREATE ROLE "Odd ""Quoted"" Role" NOLOGIN IN ROLE "odd reader";
GRANT CREATE ON DATABASE :"database" TO odd_owner;
COMMENT ON DATABASE :"database" IS 'It''s odd';
ALTER DATABASE :"database" SET search_path TO app, public;
ALTER DATABASE :"database" SET statement_timeout TO '17min';
ALTER ROLE odd_owner IN DATABASE :"database" SET work_mem TO '12MB';
REVOKE TEMPORARY ON DATABASE :"database" FROM PUBLIC;
ALTER SCHEMA public OWNER TO odd_owner;
SET ROLE odd_owner;
CREATE SCHEMA app;
CREATE SCHEMA "Odd Schema";
CREATE TYPE app.status AS ENUM ('open', 'paid', 'written off');
CREATE DOMAIN app.amount AS numeric(14, 2) CHECK (VALUE >= 0);
CREATE TYPE app.address AS (street text, town text);
CREATE TABLE app.customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    address app.address,
    settings jsonb NOT NULL DEFAULT '{}',
    lowered text GENERATED ALWAYS AS (lower(name)) STORED,
    UNIQUE (name)
);
CREATE SEQUENCE app.numbers START 1000 INCREMENT 10;
CREATE SEQUENCE app.never_used;
CREATE TABLE app.invoices (
    id int DEFAULT nextval('app.numbers') PRIMARY KEY,
    customer bigint NOT NULL REFERENCES app.customers DEFERRABLE INITIALLY DEFERRED,
    amount app.amount NOT NULL,
    status app.status NOT NULL DEFAULT 'open',
    due date NOT NULL,
    note text,
    period tstzrange,
    data bytea,
    weight float8
);
CREATE INDEX invoices_due ON app.invoices (due) WHERE status = 'open';
CREATE INDEX invoices_lower ON app.invoices ((lower(note)));
CREATE TABLE app.payments (id int NOT NULL, paid_at timestamptz NOT NULL, amount numeric) PARTITION BY RANGE (paid_at);
CREATE TABLE app.payments_2025 PARTITION OF app.payments FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE app."payments 2026" PARTITION OF app.payments FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE app.payments_rest PARTITION OF app.payments DEFAULT;
CREATE INDEX ON app.payments (paid_at);
CREATE TABLE app.parent (a int);
CREATE TABLE app.child (b text) INHERITS (app.parent);
CREATE TABLE "Odd Schema"."Table with ""quotes"", dots. and ünïcode" ("select" int, "Col umn" text);
CREATE TABLE app.no_columns ();
CREATE UNLOGGED TABLE app.unlogged (a int);
CREATE TABLE app.secrets (tenant text, value text);
ALTER TABLE app.secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON app.secrets USING (tenant = current_user);
CREATE VIEW app.open_invoices AS SELECT c.name, i.amount FROM app.invoices i JOIN app.customers c ON c.id = i.customer;
CREATE MATERIALIZED VIEW app.totals AS SELECT status, sum(amount) AS total FROM app.invoices GROUP BY 1;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $body$BEGIN NEW.note := coalesce(NEW.note, ';'); RETURN NEW; END$body$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON app.invoices FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE PROCEDURE app.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE app.longest(text) (SFUNC = textcat, STYPE = text);
CREATE OPERATOR app.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE RULE quiet AS ON DELETE TO app.parent DO INSTEAD NOTHING;
CREATE STATISTICS app.related ON customer, status FROM app.invoices;
COMMENT ON TABLE app.invoices IS 'Money we wait for; "soon"';
COMMENT ON COLUMN app.invoices.due IS E'line one\nline two';
GRANT SELECT ON app.invoices TO "odd reader";
GRANT UPDATE (note) ON app.invoices TO "Odd ""Quoted"" Role" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO "odd reader";
INSERT INTO app.customers (name, address, settings)
    SELECT 'Customer ' || n, ROW('Street ' || n, E'To\twn\\')::app.address, jsonb_build_object('n', n, 'ü', '{"x"}') FROM generate_series(1, 300) n;
INSERT INTO app.invoices (customer, amount, status, due, note, period, data, weight)
    SELECT 1 + n % 300, n * 1.01, (enum_range(NULL::app.status))[1 + n % 3], date '2025-01-01' + n % 700,
           CASE WHEN n % 7 = 0 THEN NULL ELSE E'note \n' || n END, tstzrange(now(), NULL), decode(md5(n::text), 'hex'),
           CASE n % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE 1 / (n + 0.1) END
      FROM generate_series(1, 5000) n;
INSERT INTO app.payments SELECT n, timestamptz '2024-06-01' + n * interval '3 hours', n FROM generate_series(1, 6000) n;
INSERT INTO app.parent SELECT generate_series(1, 10);
INSERT INTO app.child SELECT n, 'child' FROM generate_series(1, 7) n;
INSERT INTO "Odd Schema"."Table with ""quotes"", dots. and ünïcode" VALUES (1, 'a'), (2, NULL), (2, NULL);
INSERT INTO app.no_columns DEFAULT VALUES;
INSERT INTO app.no_columns DEFAULT VALUES;
INSERT INTO app.unlogged VALUES (1);
INSERT INTO app.secrets VALUES ('odd_owner', 'x'), ('somebody else', 'y');
REFRESH MATERIALIZED VIEW app.totals;
SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 2000), 'hex')) FROM generate_series(1, 3) n;
RESET ROLE;
