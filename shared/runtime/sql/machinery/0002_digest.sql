-- The digest of a state table: rows, and an order-free sum over a hash of every column of every row.

-- The table's name is looked up through the caller's search_path, so the same function serves live and scratch schemas.
create function digest_of(name text) returns table (row_count bigint, digest text)
language plpgsql stable as $$
begin
    return query execute format(
        'select count(*), coalesce(sum((''x'' || substr(h, 1, 15))::bit(60)::bigint::numeric), 0)::text || ''.'' ||
                coalesce(sum((''x'' || substr(h, 16, 15))::bit(60)::bigint::numeric), 0)::text
         from (select encode(sha256(convert_to(t::text, ''UTF8'')), ''hex'') as h from %I t) hashes',
        name
    );
end
$$;
