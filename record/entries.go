package record

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

// Entry is what is known of one layer, as it is exported: one JSON object.
type Entry struct {
	Source digest.Digest      `json:"source"` // of the stored source layer
	Format string             `json:"format"`
	Writer string             `json:"writer"` // version and options of the writer
	Blob   ocispec.Descriptor `json:"blob"`
	Places []string           `json:"places"` // repositories, layouts and archives where the blob was seen
}

// ErrEntry means that an entry to import lacks something.
var ErrEntry = errors.New("invalid entry")

// Entries returns all entries, sorted by source, format and writer.
func (d *DB) Entries(ctx context.Context) ([]Entry, error) {
	if d == nil {
		return nil, nil
	}
	rows, err := d.db.QueryContext(ctx, `SELECT source, format, writer, descriptor FROM layers ORDER BY source, format, writer`)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var raw string
		if err := rows.Scan(&e.Source, &e.Format, &e.Writer, &raw); err != nil {
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
	return list, nil
}

// Validate returns ErrEntry for an entry that lacks something.
func (e *Entry) Validate() error {
	if err := e.Source.Validate(); err != nil {
		return fmt.Errorf("%w: source %.100q: %w", ErrEntry, e.Source, err)
	}
	if err := e.Blob.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: blob %.100q: %w", ErrEntry, e.Blob.Digest, err)
	}
	if e.Format == "" || e.Writer == "" || e.Blob.Size < 0 {
		return fmt.Errorf("%w: layer %s: format %q, writer %q, %d bytes", ErrEntry, e.Source, e.Format, e.Writer, e.Blob.Size)
	}
	return nil
}

// Import adds an entry. Its places are added to those that are known of the blob.
func (d *DB) Import(ctx context.Context, e Entry) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return d.Store(ctx, convert.Key{Source: e.Source, Format: e.Format, Writer: e.Writer}, convert.Known{Desc: e.Blob, Places: e.Places})
}

// Remove forgets entries and returns how many: with a digest, those whose source layer or blob that is; with a place, all that
// is there or below it, unless it was seen elsewhere too; with neither, all.
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
		_, err = tx.ExecContext(ctx, `DELETE FROM places WHERE blob NOT IN (SELECT json_extract(descriptor, '$.digest') FROM layers)`)
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
