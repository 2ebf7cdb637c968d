-- What the platform's web application needs beside the receivables: passwords, and which document belongs to what.

ALTER TABLE receivables.users ADD COLUMN password_hash text;
COMMENT ON COLUMN receivables.users.password_hash IS 'scrypt, its salt before it; nobody logs in without one';

CREATE TABLE receivables.documents (
    path text PRIMARY KEY,
    invoice_id bigint NOT NULL REFERENCES receivables.invoices
);
COMMENT ON TABLE receivables.documents IS 'Files below the uploads, and the invoices they are of';
