-- 5,000 tables, as a platform has that keeps a few for each of its customers: more than a server's lock table holds with
-- their constraints and indexes, so they are made a few hundred at a time.
SELECT format($$DO 'BEGIN FOR n IN %s..%s LOOP
  EXECUTE format(''CREATE TABLE account_%%s (id int PRIMARY KEY, code text UNIQUE, amount numeric)'', n);
  EXECUTE format(''CREATE INDEX ON account_%%s (amount)'', n);
  EXECUTE format(''INSERT INTO account_%%s SELECT g, g::text, g FROM generate_series(1, %%s) g'', n, n %% 5);
END LOOP; END'$$, first, first + 249)
  FROM generate_series(1, 5000, 250) first
\gexec
