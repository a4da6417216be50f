package sqlite

import (
	"bytes"
	"os"
	"testing"
)

func TestAFlippedBitInARowIsNoticed(t *testing.T) {
	db, path := open(t)
	execute(t, db, "CREATE TABLE words (word TEXT PRIMARY KEY, number INTEGER, sum INTEGER NOT NULL AS (troupe_sum(word, number)) STORED) STRICT, WITHOUT ROWID")
	execute(t, db, "INSERT INTO words VALUES ('unmistakable', 1), ('other', NULL)")
	execute(t, db, "UPDATE words SET number = 7 WHERE word = 'other'")
	if err := CheckSums(t.Context(), db); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	execute(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(file, []byte("unmistakable"))
	file[at+3] ^= 1
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged, err := Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer damaged.Close()
	if err := CheckSums(t.Context(), damaged); err == nil {
		t.Error("a letter of a row has changed, and nobody noticed")
	}
}
