-- The rows of the receivables platform: two years of business, up to 30 June 2026.
-- pg_temp.draw(n, what, below) gives the same number from 0 to below - 1 for the same seed, n and what, on every
-- version of PostgreSQL; pg_temp.invoices() is how many invoices are wanted. Both come from load_receivables.
-- OFFSET 0 keeps the planner from writing an expression of a subquery out again at each of its uses.

SET LOCAL search_path = receivables, pg_temp;

CREATE FUNCTION pg_temp.pick(n bigint, what int, words text[]) RETURNS text LANGUAGE sql IMMUTABLE
RETURN words[1 + pg_temp.draw(n, what, array_length(words, 1))];

CREATE FUNCTION pg_temp.with_check_digits(country text, account text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN country || lpad((98 - receivables.iban_remainder(country || '00' || account))::text, 2, '0') || account;

CREATE FUNCTION pg_temp.ascii(name text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN regexp_replace(lower(translate(replace(name, 'ß', 'ss'),
                                            'ÄÖÜäöüÁÉÍÓÚáéíóúàèìòùâêîôûëïçñãõåÅøØłŁśŚćżńęąčřšžýěůŠČŘŽŻÇ',
                                            'AOUaouAEIOUaeiouaeiouaeioueicnaoaAoOlLsSczneacrszyeuSCRZZC') COLLATE "C"),
                      '[^a-z0-9]+', '-', 'g');

INSERT INTO settings VALUES
    ('business_date', '"2026-06-30"'),
    ('company', '{"name": "Lindholm & Partner Industrieservice GmbH", "town": "Hamburg", "vat_id": "DE811907980"}'),
    ('dunning', '{"days": [10, 30, 60], "fees": ["0.00", "5.00", "12.50"]}');

CREATE TEMP TABLE local (
    country char(2) PRIMARY KEY, vat_pattern text, bank text, account_digits int, dial text, forms text[], trades text[],
    surnames text[], streets text[], places text[]
) ON COMMIT DROP;

INSERT INTO countries VALUES
    ('DE', 'Germany', 'EUR', 19), ('FR', 'France', 'EUR', 20), ('IT', 'Italy', 'EUR', 22), ('ES', 'Spain', 'EUR', 21),
    ('NL', 'Netherlands', 'EUR', 21), ('PL', 'Poland', 'PLN', 23), ('AT', 'Austria', 'EUR', 20),
    ('BE', 'Belgium', 'EUR', 21), ('SE', 'Sweden', 'SEK', 25), ('CZ', 'Czechia', 'CZK', 21),
    ('PT', 'Portugal', 'EUR', 23), ('IE', 'Ireland', 'EUR', 23);

-- # in vat_pattern is where eight digits go; an account is its bank and then as many digits.
INSERT INTO local VALUES
    ('DE', 'DE1#', '', 18, '+49', '{GmbH,GmbH & Co. KG,AG,e.K.}', '{Maschinenbau,Elektrotechnik,Logistik,Metallbau,Druckerei}',
     '{Müller,Schröder,Hoffmann,Krüger,Weiß,Jäger,Brandt,Köhler,Vogel,Lehmann}',
     '{Industriestraße,Am Hafen,Bahnhofstraße,Gewerbering,Lindenallee}',
     '{20457|Hamburg,04109|Leipzig,70565|Stuttgart,44147|Dortmund,90431|Nürnberg,28217|Bremen}'),
    ('FR', 'FR4#2', '', 23, '+33', '{SARL,SAS,SA}', '{Mécanique,Transports,Électricité,Menuiserie,Imprimerie}',
     '{Lefèvre,Moreau,Garnier,Rousseau,Mercier,Chevalier,Fontaine,Dupré,Gauthier}',
     '{rue de la République,avenue Jean Jaurès,quai des Chartrons,chemin du Moulin}',
     '{69007|Lyon,33000|Bordeaux,59000|Lille,44200|Nantes,67000|Strasbourg}'),
    ('IT', 'IT#017', '', 23, '+39', '{S.r.l.,S.p.A.,S.n.c.}', '{Meccanica,Trasporti,Impianti,Tessile,Ceramiche}',
     '{Rossi,Ferrari,Esposito,Bianchi,Colombo,Ricci,Marino,Gallo,Conti}',
     '{via Garibaldi,via dell''Artigianato,corso Italia,viale Europa}',
     '{20138|Milano,10156|Torino,40127|Bologna,37135|Verona,50127|Firenze}'),
    ('ES', 'ESB#', '', 20, '+34', '{S.L.,S.A.}', '{Maquinaria,Transportes,Instalaciones,Carpintería,Alimentación}',
     '{García,Fernández,Muñoz,Ibáñez,Romero,Navarro,Castro,Ortega}',
     '{calle Mayor,avenida de la Industria,calle del Puerto,polígono Malpica}',
     '{08038|Barcelona,46024|Valencia,50016|Zaragoza,48013|Bilbao,41007|Sevilla}'),
    ('NL', 'NL0#B01', 'INGB', 10, '+31', '{B.V.,N.V.,V.O.F.}', '{Techniek,Transport,Bouw,Installatie,Agro}',
     '{de Vries,Jansen,van Dijk,Bakker,Visser,Smit,Mulder,Hendriks}',
     '{Havenweg,Industrieweg,Stationsplein,Kerkstraat}',
     '{3011 AA|Rotterdam,5617 BC|Eindhoven,3542 AD|Utrecht,9723 ZB|Groningen}'),
    ('PL', 'PL52#', '', 24, '+48', '{Sp. z o.o.,S.A.,sp.j.}', '{Budownictwo,Transport,Elektromontaż,Meble,Opakowania}',
     '{Kowalski,Wiśniewski,Wójcik,Kamiński,Zieliński,Szymański,Dąbrowski,Jabłoński}',
     '{ul. Fabryczna,ul. Portowa,al. Jana Pawła II,ul. Długa}',
     '{90-361|Łódź,80-298|Gdańsk,60-003|Poznań,30-702|Kraków,50-424|Wrocław}'),
    ('AT', 'ATU#', '', 16, '+43', '{GmbH,KG,OG}', '{Anlagenbau,Holzbau,Spedition,Haustechnik}',
     '{Gruber,Huber,Steiner,Pichler,Moser,Mayrhofer,Wallner,Fuchs}',
     '{Wiener Straße,Industriezeile,Salzachweg,Hauptplatz}',
     '{4020|Linz,8020|Graz,5020|Salzburg,1230|Wien,6020|Innsbruck}'),
    ('BE', 'BE0#3', '', 12, '+32', '{BV,NV,SRL}', '{Logistics,Chemie,Staalbouw,Brouwerij}',
     '{Peeters,Janssens,Maes,Dubois,Lambert,Claes,Goossens}',
     '{Noorderlaan,chaussée de Namur,Havenstraat,rue des Brasseurs}',
     '{2030|Antwerpen,9042|Gent,4020|Liège,8380|Zeebrugge}'),
    ('SE', 'SE55#01', '', 20, '+46', '{AB,HB}', '{Mekaniska,Åkeri,Bygg,Elteknik,Skog}',
     '{Lindqvist,Åkesson,Sjöberg,Nyström,Holmgren,Öberg,Wallin}',
     '{Hamngatan,Verkstadsgatan,Norra vägen,Storgatan}',
     '{417 55|Göteborg,212 41|Malmö,721 30|Västerås,903 30|Umeå}'),
    ('CZ', 'CZ#', '', 20, '+420', '{s.r.o.,a.s.}', '{Strojírna,Doprava,Elektro,Sklárna}',
     '{Novák,Dvořák,Svoboda,Černý,Procházka,Růžička,Šimek}',
     '{Průmyslová,Nádražní,Na Příkopě,Dlouhá}',
     '{602 00|Brno,301 00|Plzeň,702 00|Ostrava,108 00|Praha 10}'),
    ('PT', 'PT5#', '', 21, '+351', '{Lda.,S.A.}', '{Moldes,Cortiça,Têxteis,Transportes}',
     '{Silva,Ferreira,Gonçalves,Magalhães,Simões,Teixeira}',
     '{rua da Indústria,avenida da Boavista,largo do Carmo}',
     '{4100-130|Porto,2430-028|Marinha Grande,3800-110|Aveiro}'),
    ('IE', 'IE#T', 'AIBK', 14, '+353', '{Ltd,DAC}', '{Engineering,Haulage,Foods,Packaging}',
     '{Murphy,O''Brien,Byrne,Gallagher,Doyle,Kavanagh}',
     '{Dock Road,Abbey Street,Ballymount Avenue}',
     '{T12 W8KV|Cork,V94 T9PX|Limerick,D12 X7E4|Dublin}');

INSERT INTO users (login, full_name, role, active, created_at)
SELECT lower(pg_temp.ascii(first || '.' || last)) || n, first || ' ' || last,
       (ARRAY['service', 'auditor', 'approver', 'approver', 'clerk'])[least(n, 5)]::user_role,
       n % 11 <> 0, timestamptz '2024-05-02 08:00+00' + n * interval '9 days'
  FROM generate_series(1, 24) n,
       LATERAL (SELECT pg_temp.pick(n, 1, '{Anna,Jürgen,Sofía,Luca,Zofia,Erik,Maëlle,Pieter,Tereza,João,Aoife,Jonas}') AS first,
                       pg_temp.pick(n, 2, '{Lindholm,Nowak,Bauer,Petit,Moretti,Vos,Berg,Horák,Costa,Walsh}') AS last) names;

CREATE FUNCTION pg_temp.customers() RETURNS int LANGUAGE sql IMMUTABLE
RETURN greatest(40, pg_temp.invoices() / 50);

INSERT INTO customers (name, country, vat_id, email, phone, street, postcode, town, account, payment_days, credit_limit,
                       preferences, created_at)
SELECT company || ' ' || form, country, replace(vat_pattern, '#', digits),
       pg_temp.pick(n, 10, '{accounts,invoices,finance,office,ap,info}') || '@' || pg_temp.ascii(company) || '.' || lower(country),
       dial || ' ' || 20 + pg_temp.draw(n, 11, 79) || ' ' || 100000 + pg_temp.draw(n, 12, 8900000),
       street || ' ' || 1 + pg_temp.draw(n, 13, 180), split_part(place, '|', 1), split_part(place, '|', 2),
       pg_temp.with_check_digits(country, bank || right(repeat('0', 24) || digits || lpad(pg_temp.draw(n, 14, 999999999)::text, 9, '0'), account_digits)),
       (ARRAY[14, 30, 30, 30, 45, 60])[1 + pg_temp.draw(n, 15, 6)],
       5000 * (1 + pg_temp.draw(n, 16, 40)),
       jsonb_strip_nulls(jsonb_build_object(
           'language', coalesce('{"AT": "de", "BE": "fr", "SE": "sv", "CZ": "cs", "IE": "en"}'::jsonb ->> country, lower(country)),
           'invoice_by', pg_temp.pick(n, 17, '{email,email,email,peppol,post}'),
           'cost_centre', CASE WHEN n % 3 = 0 THEN to_char(pg_temp.draw(n, 18, 9999), 'FM0000') END,
           'contact', chr(65 + pg_temp.draw(n, 19, 20)) || '. ' || pg_temp.pick(n, 20, surnames),
           'discount', CASE WHEN n % 7 = 0 THEN jsonb_build_object('percent', 2, 'days', 10) END)),
       timestamptz '2024-06-01 09:00+00' + pg_temp.draw(n, 21, 25 * 86400) * interval '1 second'
  FROM (SELECT n, local.*, to_char(10000000 + (n * 7368787::bigint + pg_temp.draw(1, 22, 80000000)) % 89999999, 'FM00000000') AS digits,
               pg_temp.pick(n, 23, surnames)
               || CASE pg_temp.draw(n, 24, 5) WHEN 0 THEN ' & ' || pg_temp.pick(n, 25, surnames) WHEN 1 THEN '' ELSE ' ' || pg_temp.pick(n, 26, trades) END
               || CASE pg_temp.draw(n, 27, 3) WHEN 0 THEN ' ' || split_part(pg_temp.pick(n, 28, places), '|', 2) ELSE '' END AS company,
               pg_temp.pick(n, 29, forms) AS form, pg_temp.pick(n, 30, streets) AS street, pg_temp.pick(n, 28, places) AS place
          FROM generate_series(1, pg_temp.customers()) n
          JOIN local ON local.country = (ARRAY['DE','DE','DE','DE','FR','FR','IT','IT','ES','NL','NL','PL','PL','AT','AT','BE','SE','CZ','PT','IE'])[1 + pg_temp.draw(n, 31, 20)]
         OFFSET 0) drawn
 ORDER BY n;

-- A scan is a PDF: a readable frame around what a scanner's compression leaves, which compresses no further.
INSERT INTO contracts (customer_id, signed_on, title, scan)
SELECT n, date '2024-06-03' + pg_temp.draw(n, 40, 28), 'Frame contract ' || 2400 + n || ', signed copy',
       lo_from_bytea((900000 + n)::oid,
           convert_to(E'%PDF-1.4\n1 0 obj\n<< /Type /XObject /Subtype /Image /Width 1654 /Height 2339 /Filter /DCTDecode >>\nstream\n', 'UTF8')
           || (SELECT string_agg(decode(md5(pg_temp.draw(n * 100000 + part, 41, 2000000000)::text), 'hex'), '' ORDER BY part)
                 FROM generate_series(1, 800 + pg_temp.draw(n, 42, 2400)) part)
           || convert_to(E'\nendstream\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n', 'UTF8'))
  FROM generate_series(1, 24) n;

-- Every invoice with what was paid on it, and when: nothing, part, all at once, or all in two instalments. A few
-- customers have most of the invoices, and every ninth pays everything together at the end of the month.
CREATE TEMP TABLE drawn ON COMMIT DROP AS
SELECT *, CASE WHEN outcome < 75 AND first_amount IS NOT NULL AND second_on <= date '2026-06-30' THEN gross - first_amount END AS second_amount
  FROM (SELECT *,
               CASE WHEN draft OR first_on > date '2026-06-30' THEN NULL
                    WHEN outcome < 70 THEN gross
                    WHEN outcome < 75 THEN round(gross / 2, 2)
                    WHEN outcome < 80 THEN round(gross * (30 + pg_temp.draw(n, 60, 31)) / 100, 2) END AS first_amount,
               CASE WHEN outcome BETWEEN 70 AND 74
                    THEN CASE WHEN together THEN (date_trunc('month', first_on::timestamp) + interval '2 months - 1 day')::date ELSE first_on + 30 END
                    END AS second_on
          FROM (SELECT *, net + vat AS gross, issued_on + payment_days AS due_on,
                       CASE WHEN together THEN (date_trunc('month', pays_on::timestamp) + interval '1 month - 1 day')::date ELSE pays_on END AS first_on,
                       outcome >= 60 AND issued_on > date '2026-06-20' AS draft
                  FROM (SELECT *, round(net * vat_rate / 100, 2) AS vat, customer % 9 = 0 AS together,
                               issued_on + payment_days - least(payment_days, 6) + late * late * late * late / 130000 AS pays_on
                          FROM (SELECT n, c.id AS customer, c.currency, c.vat_rate, c.payment_days,
                                       date '2024-07-01' + (n * 730 / (pg_temp.invoices() + 1))::int AS issued_on,
                                       round((4900 + size::bigint * size * size / 300000 + pg_temp.draw(n, 50, 997)) / 100.0, 2) AS net,
                                       pg_temp.draw(n, 51, 100) AS outcome, pg_temp.draw(n, 52, 50) AS late
                                  FROM (SELECT n, pg_temp.draw(n, 53, 10000) AS size, pg_temp.draw(n, 54, 1000000) AS which
                                          FROM generate_series(1::bigint, pg_temp.invoices()) n OFFSET 0) numbers
                                  JOIN (SELECT id, currency, vat_rate, payment_days FROM customers JOIN countries ON code = country OFFSET 0) c
                                    ON c.id = 1 + which::bigint * which * pg_temp.customers() / 1000000000000
                                 OFFSET 0) a OFFSET 0) b OFFSET 0) c OFFSET 0) d
 ORDER BY n;
ANALYZE drawn;

INSERT INTO invoices (id, number, customer_id, issued_on, due_on, currency, net, vat_rate, vat, paid, status, description,
                      details, created_by, created_at)
SELECT n, CASE WHEN NOT draft THEN 'INV-' || left(issued_on::text, 4) || '-' || lpad(n::text, 7, '0') END,
       customer, issued_on, due_on, currency, net, vat_rate, vat, paid,
       CASE WHEN draft THEN 'draft'::invoice_status
            WHEN paid < gross AND outcome >= 90 AND due_on < date '2025-09-30' THEN 'written off'::invoice_status
            ELSE status_of(gross, paid, due_on, date '2026-06-30') END,
       pg_temp.pick(n, 61, '{Maintenance of,Inspection of,Spare parts for,Repair of,Calibration of,Assembly of,Retrofit of,Rental of,Software update for,Emergency call-out to}')
       || ' ' || pg_temp.pick(n, 62, '{conveyor line,hydraulic press,compressor,CNC mill,packaging robot,forklift,cooling tower,paint booth,palletiser,dosing pump,switch cabinet,boiler,crane,labelling machine}')
       || ' ' || 1 + pg_temp.draw(n, 63, 48) || ', hall ' || chr(65 + pg_temp.draw(n, 64, 8))
       || pg_temp.pick(n, 65, '{"; 2 technicians, travel included","; as by quotation","; parts and labour","; weekend rate applies","; warranty case, second visit","; delivered and signed for",""}')
       || '; ' || 1 + pg_temp.draw(n, 66, 80) || ' h, delivery note ' || 100000 + pg_temp.draw(n, 67, 899999),
       jsonb_build_object('order', 'PO-' || 4500000000 + pg_temp.draw(n, 68, 99999999), 'delivered', issued_on - pg_temp.draw(n, 69, 12),
                          'by', pg_temp.pick(n, 70, '{email,peppol,post}')),
       5 + pg_temp.draw(n, 71, 20), issued_on + (25000 + pg_temp.draw(n, 72, 36000)) * interval '1 second'
  FROM (SELECT *, coalesce(first_amount, 0) + coalesce(second_amount, 0) AS paid FROM drawn OFFSET 0) d;

CREATE TEMP TABLE shares ON COMMIT DROP AS
SELECT n, customer, currency, amount, day,
       dense_rank() OVER (ORDER BY day, customer, CASE WHEN customer % 9 = 0 THEN 0 ELSE n END, currency) AS payment
  FROM (SELECT n, customer, currency, first_amount AS amount, first_on AS day FROM drawn WHERE first_amount IS NOT NULL
        UNION ALL
        SELECT n, customer, currency, second_amount, second_on FROM drawn WHERE second_amount IS NOT NULL) s;

INSERT INTO payments (id, customer_id, received_on, amount, currency, method, reference, bank_data)
SELECT payment, customer, day, total + CASE WHEN pg_temp.draw(payment, 80, 90) = 0 THEN 25 ELSE 0 END, currency,
       (ARRAY['bank transfer', 'bank transfer', 'bank transfer', 'direct debit', 'card', 'cheque']::payment_method[])[1 + pg_temp.draw(payment, 81, 6)],
       CASE WHEN shares = 1 THEN pg_temp.pick(payment, 82, '{Invoice,Rechnung,Facture,Fattura,Ref.,Our order,""}') || ' INV ' || lowest
            ELSE shares || ' invoices, ' || lowest || ' to ' || highest END,
       jsonb_build_object('end_to_end', md5(payment || '-' || pg_temp.draw(payment, 83, 2000000000)), 'booked', day + pg_temp.draw(payment, 84, 3))
  FROM (SELECT payment, customer, currency, day, sum(amount) AS total, count(*) AS shares, min(n) AS lowest, max(n) AS highest
          FROM shares GROUP BY payment, customer, currency, day OFFSET 0) grouped
 ORDER BY payment;

INSERT INTO allocations (payment_id, invoice_id, amount, allocated_at)
SELECT payment, n, amount, day + (30000 + pg_temp.draw(payment, 85, 30000)) * interval '1 second' FROM shares ORDER BY payment, n;

INSERT INTO "Dunning Letters"
SELECT n, level, due_on + days, (ARRAY[0, 5, 12.5])[level],
       CASE WHEN pg_temp.draw(n * 3 + level, 90, 4) = 0
            THEN pg_temp.pick(n + level, 91, '{"Will pay this week.","The invoice never reached us, please send it again.","We have complained about the delivery.","Paid yesterday, see the attached advice.","Asks for payment in three instalments."}') END
  FROM drawn, (VALUES (1, 10), (2, 30), (3, 60)) letters (level, days)
 WHERE NOT draft AND due_on + days < least(date '2026-06-30', coalesce(CASE WHEN outcome < 70 THEN first_on ELSE second_on END, date '2026-06-30'))
 ORDER BY n, level;

CREATE FUNCTION pg_temp.request(n bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
RETURN jsonb_build_object('id', md5(n || '-' || pg_temp.draw(n, 100, 2000000000)), 'from', '10.20.' || pg_temp.draw(n, 101, 8) || '.' || 2 + pg_temp.draw(n, 102, 250),
                          'agent', pg_temp.pick(n, 103, '{Firefox 139,Firefox 140,Chrome 137,Edge 137,Safari 18,batch}'));

-- The audit log is numbered in three blocks: invoices, then payments, then letters.
INSERT INTO audit_log (id, happened_at, actor, action, subject, subject_id, payload)
SELECT n, issued_on + (25000 + pg_temp.draw(n, 72, 36000)) * interval '1 second', 5 + pg_temp.draw(n, 71, 20), 'insert', 'invoices', n,
       jsonb_build_object('after', jsonb_build_object('customer_id', customer, 'net', net, 'due_on', due_on, 'currency', currency), 'request', pg_temp.request(n))
  FROM drawn;
INSERT INTO audit_log (id, happened_at, actor, action, subject, subject_id, payload)
SELECT pg_temp.invoices() + id, received_on + (20000 + pg_temp.draw(id, 110, 50000)) * interval '1 second', 1, 'insert', 'payments', id,
       jsonb_build_object('after', jsonb_build_object('amount', amount, 'method', method, 'reference', reference),
                          'statement', 'camt.053-' || received_on || '-' || 100 + pg_temp.draw(id, 111, 900), 'request', md5(id || '-' || pg_temp.draw(id, 112, 2000000000)))
  FROM payments;
INSERT INTO audit_log (id, happened_at, actor, action, subject, subject_id, payload)
SELECT (SELECT max(id) FROM audit_log) + row_number() OVER (ORDER BY "Invoice", "Level"), "Sent On" + interval '7 hours', 2, 'remind', 'invoices', "Invoice",
       jsonb_build_object('level', "Level", 'fee', "Fee (""Mahngebühr"")", 'answered', "customer's answer" IS NOT NULL)
  FROM "Dunning Letters";

SELECT setval('receivables.invoice_number', pg_temp.invoices()),
       setval('receivables.audit_entry', (SELECT max(id) FROM audit_log)),
       setval(pg_get_serial_sequence('receivables.invoices', 'id'), pg_temp.invoices()),
       setval(pg_get_serial_sequence('receivables.payments', 'id'), (SELECT max(id) FROM payments));
