package cluster

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"troupe/internal/journal"
)

// drawRecord draws a record of any kind about few members and tokens, so that they meet.
func drawRecord(t *rapid.T, at journal.Time, by journal.Origin, cas [][]byte) journal.Record {
	origin := rapid.SampledFrom([]journal.Origin{"a", "b", "c"})
	token := rapid.SampledFrom([]string{"t1", "t2"})
	r := journal.Record{Origin: by, Stream: journal.State, Number: 1, Time: at, Kind: rapid.SampledFrom(kinds()).Draw(t, "kind")}
	var body any
	switch r.Kind {
	case kindFounded:
		i := rapid.IntRange(0, len(cas)-1).Draw(t, "ca")
		body = foundedRecord{ID: []string{"x", "y"}[i], CA: cas[i]}
	case kindMember:
		body = memberRecord{Member{Origin: origin.Draw(t, "member"), Name: rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "name"), Site: rapid.SampledFrom([]string{"east", "west"}).Draw(t, "site"), Roles: []Role{RoleServer}}}
	case kindMemberKey:
		body = memberKeyRecord{Origin: origin.Draw(t, "member"), Key: rapid.SampledFrom([]string{"k1", "k2"}).Draw(t, "key")}
	case kindEdge:
		body = edgeRecord{Edge{Origin: origin.Draw(t, "edge"), Name: rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, "name"), Site: "east"}}
	case kindRemoved:
		body = removedRecord{origin.Draw(t, "removed")}
	case kindToken: // its id is random: there is one record for each
		id := token.Draw(t, "token")
		body = tokenRecord{ID: id, Sum: []byte(id), Uses: 1, Expires: time.Unix(1, 0).UTC()}
	case kindTokenUsed:
		body = tokenUsedRecord{token.Draw(t, "token"), origin.Draw(t, "used by")}
	case kindTokenRevoked:
		body = tokenRevokedRecord{token.Draw(t, "token")}
	default:
		t.Fatalf("nothing draws a record of kind %s", r.Kind)
	}
	var err error
	if r.Body, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMergeIsAFunctionOfTheSet holds that folding is commutative, associative and idempotent.
func TestMergeIsAFunctionOfTheSet(t *testing.T) {
	var cas [][]byte
	for range 2 {
		made, err := newInfrastructure(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cas = append(cas, made.cert.Raw)
	}
	fold := func(t *rapid.T, records []journal.Record) journal.Digest {
		s := newState()
		for _, r := range records {
			_ = s.fold(r) // a second foundation is told, and does not count
		}
		d, err := s.digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	rapid.Check(t, func(t *rapid.T) {
		var records []journal.Record
		type stamp struct {
			at journal.Time
			by journal.Origin
		}
		stamps := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) stamp {
			return stamp{journal.Time(rapid.IntRange(1, 6).Draw(t, "at")), rapid.SampledFrom([]journal.Origin{"a", "b", "c"}).Draw(t, "by")}
		}), 1, 14, rapid.ID[stamp]).Draw(t, "stamps")
		for _, s := range stamps {
			records = append(records, drawRecord(t, s.at, s.by, cas))
		}
		want := fold(t, records)
		order := rapid.Permutation(records).Draw(t, "order")
		again := rapid.SliceOfN(rapid.SampledFrom(records), 0, 6).Draw(t, "once more")
		if got := fold(t, append(slices.Clone(order), again...)); got != want {
			t.Fatalf("another order makes another state: %+v, %+v", got, want)
		}
	})
}
