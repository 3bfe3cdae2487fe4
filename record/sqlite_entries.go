package record

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Entries implements [Record].
func (d *DB) Entries(ctx context.Context) ([]Entry, error) {
	if d == nil {
		return nil, nil
	}
	rows, err := d.db.QueryContext(ctx, `SELECT source, format, writer, below, chain, descriptor FROM layers`)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var raw string
		if err := rows.Scan(&e.Source, &e.Format, &e.Writer, &e.Below, &e.Chain, &raw); err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
		if e.Blob, err = parseDescriptor(raw); err != nil {
			return nil, fmt.Errorf("record: layer %s: %w", e.Source, err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	for i := range list {
		if list[i].Places, err = d.places(ctx, list[i].Blob.Digest); err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
	}
	sortEntries(list)
	return list, nil
}

// Import implements [Record].
func (d *DB) Import(ctx context.Context, e Entry) error { return importEntry(ctx, d, e) }

// Remove implements [Record].
func (d *DB) Remove(ctx context.Context, dgst digest.Digest, place string) (int64, error) {
	if d == nil {
		return 0, nil
	}
	var n int64
	err := d.transaction(ctx, func(tx *sql.Tx) error {
		var res sql.Result
		var err error
		switch {
		case dgst != "":
			res, err = tx.ExecContext(ctx, `DELETE FROM layers WHERE source = ?1 OR json_extract(descriptor, '$.digest') = ?1`, dgst.String())
		case place != "":
			res, err = removePlace(ctx, tx, place)
		default:
			res, err = tx.ExecContext(ctx, `DELETE FROM layers`)
		}
		if err != nil {
			return err
		}
		if n, err = res.RowsAffected(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM manifests; DELETE FROM places WHERE blob NOT IN (SELECT json_extract(descriptor, '$.digest') FROM layers)`)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("record: %w", err)
	}
	return n, nil
}

// removePlace forgets a place with all that is below it, and the layers whose blobs were there only.
func removePlace(ctx context.Context, tx *sql.Tx, place string) (sql.Result, error) {
	place = strings.TrimSuffix(place, "/")
	_, err := tx.ExecContext(ctx, `CREATE TEMP TABLE gone AS SELECT DISTINCT blob FROM places
		WHERE place = ?1 OR substr(place, 1, length(?1) + 1) = ?1 || '/'`, place)
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM places WHERE place = ?1 OR substr(place, 1, length(?1) + 1) = ?1 || '/'`, place)
	}
	var res sql.Result
	if err == nil {
		res, err = tx.ExecContext(ctx, `DELETE FROM layers WHERE json_extract(descriptor, '$.digest') IN
			(SELECT blob FROM gone WHERE blob NOT IN (SELECT blob FROM places))`)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `DROP TABLE gone`)
	}
	return res, err
}
