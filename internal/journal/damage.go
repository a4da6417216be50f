package journal

import (
	"fmt"
)

// This file names what can be wrong with a record.

// Damage says which part of a record is not as it was written.
type Damage string

// The kinds of damage.
const (
	DamagedBody   Damage = "body"           // the body does not have its sum
	DamagedHeader Damage = "header"         // number, time, kind, key, length or sum does not fit the hash
	DamagedChain  Damage = "chain"          // the hash itself, or the end that the chain is said to have
	Missing       Damage = "missing number" // the record is not there
	Unreadable    Damage = "unreadable"     // SQLite cannot read the page
)

// A DamageError names a damaged record. The remedy is a copy of it: from another
// member, or from a backup.
type DamageError struct {
	Origin Origin
	Stream Stream
	Number uint64
	What   Damage
	Detail string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s record %d of origin %s is damaged (%s): %s", e.Stream, e.Number, e.Origin, e.What, e.Detail)
}
