-- Keys, indexes, views, functions and triggers of the receivables platform.

SET LOCAL search_path = receivables, pg_temp;

ALTER TABLE users ADD PRIMARY KEY (id), ADD UNIQUE (login);
ALTER TABLE customers ADD PRIMARY KEY (id), ADD UNIQUE (vat_id);
ALTER TABLE contracts ADD PRIMARY KEY (id), ADD UNIQUE (scan);
ALTER TABLE invoices ADD PRIMARY KEY (id), ADD UNIQUE (number);
ALTER TABLE payments ADD PRIMARY KEY (id);
ALTER TABLE allocations ADD PRIMARY KEY (payment_id, invoice_id);
ALTER TABLE "Dunning Letters" ADD PRIMARY KEY ("Invoice", "Level");
ALTER TABLE audit_log ADD PRIMARY KEY (id, happened_at);

CREATE INDEX customers_by_name ON customers (lower(name));
CREATE INDEX customers_by_preference ON customers USING gin (preferences jsonb_path_ops);
CREATE INDEX customers_in_words ON customers USING gin (to_tsvector('simple', name || ' ' || town));
CREATE INDEX invoices_of_customer ON invoices (customer_id, issued_on);
CREATE INDEX invoices_to_collect ON invoices (due_on) WHERE status IN ('open', 'partly paid', 'overdue');
CREATE INDEX payments_of_customer ON payments (customer_id) INCLUDE (amount);
CREATE INDEX payments_by_day ON payments USING brin (received_on);
CREATE INDEX allocations_of_invoice ON allocations (invoice_id);
CREATE INDEX "Letters of a day" ON "Dunning Letters" ("Sent On" DESC, "Level");
CREATE INDEX audit_of_subject ON audit_log (subject, subject_id);
CREATE STATISTICS invoices_money (dependencies, ndistinct) ON currency, vat_rate FROM invoices;

ALTER TABLE customers ADD FOREIGN KEY (country) REFERENCES countries;
ALTER TABLE contracts ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE invoices ADD FOREIGN KEY (customer_id) REFERENCES customers, ADD FOREIGN KEY (created_by) REFERENCES users;
ALTER TABLE payments ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE allocations
    ADD FOREIGN KEY (payment_id) REFERENCES payments ON DELETE CASCADE,
    ADD FOREIGN KEY (invoice_id) REFERENCES invoices DEFERRABLE;
ALTER TABLE "Dunning Letters" ADD FOREIGN KEY ("Invoice") REFERENCES invoices;
ALTER TABLE audit_log ADD FOREIGN KEY (actor) REFERENCES users;

CREATE VIEW open_items AS
    SELECT i.id, i.number, c.name AS customer, i.due_on, i.currency, i.gross - i.paid AS outstanding, i.status,
           greatest(business_date() - i.due_on, 0) AS days_late
      FROM invoices i JOIN customers c ON c.id = i.customer_id
     WHERE i.status IN ('open', 'partly paid', 'overdue');
COMMENT ON VIEW open_items IS 'What is still to come in';

CREATE VIEW "Aged Debt" AS
    SELECT currency,
           sum(outstanding) FILTER (WHERE days_late = 0) AS "not due",
           sum(outstanding) FILTER (WHERE days_late BETWEEN 1 AND 30) AS "1-30 days",
           sum(outstanding) FILTER (WHERE days_late BETWEEN 31 AND 90) AS "31-90 days",
           sum(outstanding) FILTER (WHERE days_late > 90) AS "> 90 days"
      FROM open_items GROUP BY currency;

CREATE MATERIALIZED VIEW monthly_turnover AS
    SELECT date_trunc('month', issued_on::timestamp)::date AS month, currency, count(*) AS invoices,
           sum(net) AS net, sum(vat) AS vat, sum(paid) AS paid
      FROM invoices WHERE status <> 'draft' GROUP BY 1, 2;
CREATE UNIQUE INDEX monthly_turnover_key ON monthly_turnover (month, currency);
COMMENT ON MATERIALIZED VIEW monthly_turnover IS 'For the tax adviser; refreshed by close_day()';

CREATE FUNCTION outstanding(customer bigint) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(gross - paid), 0) FROM receivables.invoices
     WHERE customer_id = customer AND status IN ('open', 'partly paid', 'overdue')
$$;

CREATE FUNCTION number_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> 'draft' AND NEW.number IS NULL THEN
        NEW.number := format('INV-%s-%s', to_char(NEW.issued_on, 'YYYY'),
                             lpad(nextval('receivables.invoice_number')::text, 7, '0'));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER number_invoice BEFORE INSERT OR UPDATE OF status ON invoices
    FOR EACH ROW EXECUTE FUNCTION number_invoice();

CREATE FUNCTION settle_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payment bigint := coalesce(NEW.payment_id, OLD.payment_id);
    invoice bigint := coalesce(NEW.invoice_id, OLD.invoice_id);
    total numeric := (SELECT coalesce(sum(amount), 0) FROM receivables.allocations WHERE invoice_id = invoice);
BEGIN
    IF (SELECT sum(amount) FROM receivables.allocations WHERE payment_id = payment)
       > (SELECT amount FROM receivables.payments WHERE id = payment) THEN
        RAISE EXCEPTION 'Payment % is smaller than what it is said to pay', payment USING ERRCODE = 'check_violation';
    END IF;
    UPDATE receivables.invoices
       SET paid = total,
           status = CASE WHEN status = 'written off' THEN status
                         ELSE receivables.status_of(gross, total, due_on, receivables.business_date()) END
     WHERE id = invoice;
    RETURN NULL;
END $$;
CREATE TRIGGER settle_invoice AFTER INSERT OR UPDATE OR DELETE ON allocations
    FOR EACH ROW EXECUTE FUNCTION settle_invoice();

CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO receivables.audit_log (actor, action, subject, subject_id, payload)
    VALUES (nullif(current_setting('receivables.actor', true), '')::bigint,
            lower(TG_OP)::receivables.audit_action, TG_TABLE_NAME, coalesce(NEW.id, OLD.id),
            jsonb_strip_nulls(jsonb_build_object('before', to_jsonb(OLD), 'after', to_jsonb(NEW))));
    RETURN NULL;
END $$;
CREATE TRIGGER write_audit AFTER INSERT OR UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION write_audit();
CREATE TRIGGER write_audit AFTER INSERT OR UPDATE OR DELETE ON payments
    FOR EACH ROW EXECUTE FUNCTION write_audit();

CREATE PROCEDURE close_day(day date) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE receivables.settings SET value = to_jsonb(day) WHERE name = 'business_date';
    UPDATE receivables.invoices SET status = 'overdue' WHERE status IN ('open', 'partly paid') AND due_on < day;
    REFRESH MATERIALIZED VIEW receivables.monthly_turnover;
END $$;
