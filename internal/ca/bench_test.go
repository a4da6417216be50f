package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"testing"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// benchSize is the number of certificates that must be comfortable.
const benchSize = 100_000

// fillBench writes many certificates of one key, a tenth of them revoked.
func fillBench(b *testing.B, a *bench) {
	b.Helper()
	i := a.trust.Load().force
	key, err := newKey(EC256)
	if err != nil {
		b.Fatal(err)
	}
	var drafts []journal.Draft
	var revoked revokedRecord
	add := func(kind, name string, body any) {
		d, err := draft(kind, name, body)
		if err != nil {
			b.Fatal(err)
		}
		drafts = append(drafts, d)
		if len(drafts) == importBatch {
			if err := a.append(b.Context(), drafts...); err != nil {
				b.Fatal(err)
			}
			drafts = nil
		}
	}
	for n := range benchSize {
		name := fmt.Sprintf("node%06d.example.test", n)
		spec := certificateSpec{serial: big.NewInt(int64(n + 10)), publicKey: key.Public()}
		spec.notBefore, spec.notAfter = validity(time.Now(), defaultTTL)
		if spec.extensions, err = leafExtensions(i, key.Public(), altNames{}.with(name), nil); err != nil {
			b.Fatal(err)
		}
		if spec.subject, err = commonName(name); err != nil {
			b.Fatal(err)
		}
		der, err := spec.sign(i.cert.RawSubject, i.key)
		if err != nil {
			b.Fatal(err)
		}
		add(kindIssued, name, issuedRecord{Certname: name, DER: der})
		if n%10 == 0 {
			revoked.Revoked = append(revoked.Revoked, revocation{Serial: serialText(spec.serial), At: time.Now(), Reason: 1})
		}
	}
	add(kindRevoked, keyCA, revoked)
	if err := a.append(b.Context(), drafts...); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHundredThousandCertificates measures each operation on an authority
// with 100,000 certificates, of which 10,000 are revoked; the issuer is EC.
func BenchmarkHundredThousandCertificates(b *testing.B) {
	a := newBench(b, testOptions())
	fillBench(b, a)
	ctx := b.Context()

	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			count := 0
			for _, err := range a.StatusJSON(ctx, "") {
				if err != nil {
					b.Fatal(err)
				}
				count++
			}
			if count < benchSize {
				b.Fatalf("%d names", count)
			}
		}
	})
	b.Run("filter", func(b *testing.B) {
		for b.Loop() {
			for _, err := range a.StatusJSON(ctx, StateRevoked) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	n := 0
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			n++
			name := fmt.Sprintf("new%06d.example.test", n)
			b.StopTimer()
			csr := csrSpec{cn: name}.pem(b)
			b.StartTimer()
			if err := a.SubmitRequest(ctx, name, csr); err != nil {
				b.Fatal(err)
			}
			if err := a.Sign(ctx, puppet.Certname(name), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("revoke-and-list", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			if err := a.Revoke(ctx, puppet.Certname(fmt.Sprintf("node%06d.example.test", i%benchSize))); err != nil {
				b.Fatal(err)
			}
			if _, err := a.lists(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	cert := a.certificate(b, "node000001.example.test")
	b.Run("revoked", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				a.Revoked(cert)
			}
		})
	})
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := a.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			opened, err := Open(context.WithoutCancel(ctx), a.dir, a.j, testOptions())
			if err != nil {
				b.Fatal(err)
			}
			a.Authority = opened
		}
	})
}

// BenchmarkListOfHundredThousand signs a revocation list of 100,000 serials.
func BenchmarkListOfHundredThousand(b *testing.B) {
	key, err := newKey(RSA3072)
	if err != nil {
		b.Fatal(err)
	}
	issuer, err := commonName("Puppet CA: puppet.example.test")
	if err != nil {
		b.Fatal(err)
	}
	spec := crlSpec{issuer: issuer, keyID: make([]byte, 20), number: big.NewInt(1), thisUpdate: time.Now(), nextUpdate: time.Now().Add(year)}
	for range benchSize {
		serial, err := newSerial("bench")
		if err != nil {
			b.Fatal(err)
		}
		line, err := newEntry(revocation{Serial: serialText(serial), At: time.Now(), Reason: 1})
		if err != nil {
			b.Fatal(err)
		}
		spec.entries = append(spec.entries, line)
	}
	for b.Loop() {
		der, err := spec.sign(key)
		if err != nil {
			b.Fatal(err)
		}
		if len(listPEM(der)) < benchSize {
			b.Fatal("the list is too short")
		}
	}
}

// BenchmarkFoldOneCertificate renders what the fold stores for each certificate.
func BenchmarkFoldOneCertificate(b *testing.B) {
	cert, err := x509.ParseCertificate(realBlock(b, "leaf.pem"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		certificateStatus("agent.example.test", cert).render()
	}
}
