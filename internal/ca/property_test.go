package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// material is what records are made of: few names, serials and requests, so that they meet.
type material struct {
	certs    [][]byte // DER, two of each name
	names    []string // of certs
	requests [][]byte
	lists    [][]byte // of two certificates above the issuer
}

func newMaterial(tb testing.TB) material {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	var m material
	now := time.Unix(1_790_000_000, 0)
	for i := range 6 {
		name := fmt.Sprint("n", i/2)
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(100 + i)), Subject: pkix.Name{CommonName: name}, NotBefore: now, NotAfter: now.Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			tb.Fatal(err)
		}
		m.certs, m.names = append(m.certs, der), append(m.names, name)
		if der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: template.Subject}, key); err != nil {
			tb.Fatal(err)
		}
		m.requests = append(m.requests, der)
		above := &x509.Certificate{SubjectKeyId: []byte{byte(i % 2)}, KeyUsage: x509.KeyUsageCRLSign, Subject: pkix.Name{CommonName: fmt.Sprint("above ", i%2)}}
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(int64(i / 4)), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, above, key)
		if err != nil {
			tb.Fatal(err)
		}
		m.lists = append(m.lists, list)
	}
	return m
}

func (m material) serial(i int) string { return big.NewInt(int64(100 + i)).Text(16) }

// draw draws a record of any kind.
func (m material) draw(t *rapid.T, at journal.Time, by journal.Origin) journal.Record {
	one := rapid.IntRange(0, len(m.certs)-1)
	id := func(i int) string { return fmt.Sprint("request ", i) }
	ids := func() []string {
		var all []string
		for _, i := range rapid.SliceOfNDistinct(one, 0, 3, rapid.ID[int]).Draw(t, "requests") {
			all = append(all, id(i))
		}
		return all
	}
	r := journal.Record{Origin: by, Stream: journal.State, Number: 1, Time: at, Kind: rapid.SampledFrom(kinds()).Draw(t, "kind")}
	i := one.Draw(t, "which")
	r.Key = m.names[i]
	var body any
	switch r.Kind {
	case kindSetup:
		body = setupRecord{Key: fmt.Sprint(i), Bundle: string(certificatePEM(m.certs[i]))}
	case kindRequest: // its id is random: there is one record for each
		body = requestRecord{ID: fmt.Sprint(id(i), at, by), Certname: m.names[i], DER: m.requests[i]}
		if rapid.Bool().Draw(t, "known id") && by == "a" && at == journal.Time(i+1) {
			body = requestRecord{ID: id(i), Certname: m.names[i], DER: m.requests[i]}
		}
	case kindDeleted:
		body = deletedRecord{Requests: ids()}
	case kindIssued:
		issued := issuedRecord{Certname: m.names[i], Serial: m.serial(i), NotBefore: time.Unix(5, 0), NotAfter: time.Unix(6, 0), Requests: ids()}
		if rapid.Bool().Draw(t, "certificate") {
			issued.DER = m.certs[i]
		}
		body = issued
	case kindRevoked:
		var all []revocation
		for _, k := range rapid.SliceOfNDistinct(one, 1, 3, rapid.ID[int]).Draw(t, "serials") {
			all = append(all, revocation{Serial: m.serial(k), At: time.Unix(rapid.Int64Range(1, 3).Draw(t, "date"), 0), Reason: rapid.IntRange(0, 2).Draw(t, "reason")})
		}
		body = revokedRecord{all}
	case kindCleaned:
		body = cleanedRecord{[]string{m.serial(i)}}
	case kindAncestor:
		body = ancestorRecord{m.lists[i]}
	case kindRenewed:
		body = struct{}{}
	case kindRollover:
		body = rolloverRecord{Step: rapid.SampledFrom([]string{stepBegin, stepFinish}).Draw(t, "step"), Key: fmt.Sprint(i), From: "0", Retired: []string{fmt.Sprint(i)}}
	case kindSeen:
		body = seenRecord{Key: fmt.Sprint(i % 2), Names: []string{m.names[i]}, Accepts: []string{m.names[0]}}
	default:
		t.Fatalf("nothing draws a record of kind %s", r.Kind)
	}
	var err error
	if r.Body, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMergeIsAFunctionOfTheSet holds that folding is commutative, associative and idempotent for every kind of record, and that
// so are the lines of the revocation list.
func TestMergeIsAFunctionOfTheSet(t *testing.T) {
	m := newMaterial(t)
	p := &projection{path: t.TempDir() + "/ca.db", log: telemetry.Discard(nil)}
	if err := p.reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		sums := func(records []journal.Record) (journal.Hash, [][]byte) {
			for _, table := range tables() {
				if _, err := p.write.ExecContext(ctx, "DELETE FROM "+table); err != nil {
					t.Fatal(err)
				}
			}
			var set revokedSet
			for len(records) > 0 {
				n := rapid.IntRange(1, len(records)).Draw(t, "group")
				tx, err := p.write.BeginTx(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				f := &fold{tx: tx, log: p.log, self: "a"}
				for _, r := range records[:n] {
					if err := f.apply(ctx, r); err != nil {
						t.Fatal(err)
					}
				}
				if err := f.finish(ctx, "any", 1); err != nil {
					t.Fatal(err)
				}
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
				if err := set.add(f.learned.revoked); err != nil {
					t.Fatal(err)
				}
				records = records[n:]
			}
			d, err := p.digest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var lines [][]byte
			for _, e := range set.lines() {
				lines = append(lines, e.der)
			}
			return d.Sum, lines
		}
		type stamp struct {
			at journal.Time
			by journal.Origin
		}
		stamps := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) stamp {
			return stamp{journal.Time(rapid.IntRange(1, 6).Draw(t, "at")), rapid.SampledFrom([]journal.Origin{"a", "b", "c"}).Draw(t, "by")}
		}), 1, 16, rapid.ID[stamp]).Draw(t, "stamps")
		var records []journal.Record
		for _, s := range stamps {
			records = append(records, m.draw(t, s.at, s.by))
		}
		want, lines := sums(records)
		order := rapid.Permutation(records).Draw(t, "order")
		again := rapid.SliceOfN(rapid.SampledFrom(records), 0, 6).Draw(t, "once more")
		got, others := sums(append(slices.Clone(order), again...))
		if got != want {
			t.Fatal("another order makes other tables")
		}
		if !slices.EqualFunc(lines, others, slices.Equal) {
			t.Fatal("another order makes another revocation list")
		}
	})
}
