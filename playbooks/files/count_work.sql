SELECT coalesce(sum(greatest(0, (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I',
table_schema, table_name), false, true, '')))[1]::text::bigint - (table_name = 'users_user')::int)), 0)
FROM information_schema.tables WHERE table_schema = 'public' AND table_name IN
('core_project', 'core_document', 'core_documentpart', 'core_ocrmodel', 'users_user')
