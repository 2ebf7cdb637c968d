-- Roles as they come, made once a server. The passwords are of nobody.
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'odd admin') AS new, current_setting('server_version_num')::int >= 160000 AS has_16 \gset
\if :new
CREATE ROLE "odd admin" CREATEROLE CREATEDB REPLICATION BYPASSRLS LOGIN PASSWORD 'It''s; a "p\assword' VALID UNTIL '2099-01-01 UTC' CONNECTION LIMIT 7;
CREATE ROLE "GRANT x TO y; --" NOINHERIT LOGIN PASSWORD NULL;
ALTER ROLE "odd admin" SET search_path TO "$user", 'a b';
ALTER ROLE "odd admin" SET work_mem TO '7MB';
COMMENT ON ROLE "odd admin" IS E'Line one;\nCREATE ROLE none; -- "\\';
GRANT pg_read_all_data, pg_monitor TO "odd admin";
GRANT "odd admin" TO "GRANT x TO y; --" WITH ADMIN OPTION;
GRANT SET ON PARAMETER log_statement TO "odd admin";
\if :has_16
GRANT pg_signal_backend TO "GRANT x TO y; --" WITH INHERIT FALSE, SET FALSE;
\endif
\endif
