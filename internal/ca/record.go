package ca

import (
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"troupe/internal/journal"
)

// This file defines the records of the certificate authority. Each is complete by
// itself and none is ever changed: the state is the union of all of them.

// Kinds of records.
const (
	kindSetup    = "ca.setup"           // an issuer exists; the newest is in force
	kindRequest  = "ca.request"         // a certificate was requested
	kindDeleted  = "ca.request-deleted" // requests were removed unsigned
	kindIssued   = "ca.issued"          // a certificate was signed
	kindRevoked  = "ca.revoked"         // serial numbers were revoked
	kindCleaned  = "ca.cleaned"         // certificates were removed from the lists
	kindAncestor = "ca.ancestor-crl"    // a revocation list of a certificate above the issuer
	kindRenewed  = "ca.crl-renewed"     // the issuers' lists were signed again without a change
	kindRollover = "ca.rollover"        // a step from one issuer to the next
	kindSeen     = "ca.seen"            // agents were met that have, or accept, certificates of the new issuer
)

// kinds are those that this program folds.
func kinds() []string {
	return []string{kindSetup, kindRequest, kindDeleted, kindIssued, kindRevoked, kindCleaned, kindAncestor, kindRenewed, kindRollover, kindSeen}
}

// keyCA is the key of records that are about the authority, not about a certname.
const keyCA = "ca"

type setupRecord struct {
	Key       string    `json:"key"`                  // subject key identifier of the issuer, hex
	Bundle    string    `json:"bundle"`               // PEM that agents get: the issuer first
	Cross     string    `json:"cross,omitempty"`      // PEM of the issuer's certificate by the root, when Bundle has the self-signed one
	CRLNumber string    `json:"crl_number,omitempty"` // of the imported list; decimal
	CRLTime   time.Time `json:"crl_time,omitzero"`    // thisUpdate of the imported list
	Infra     string    `json:"infra,omitempty"`      // infra_inventory.txt of an imported folder
}

// The steps of a roll-over. Each may be recorded by any member, and any of them may be known before the others.
const (
	stepBegin  = "begin"  // a new issuer exists
	stepReady  = "ready"  // the member that writes it holds the new key
	stepSign   = "sign"   // every member does: the new issuer signs
	stepShow   = "show"   // servers show certificates of the new issuer
	stepHide   = "hide"   // they show those of the old one again
	stepFinish = "finish" // other issuers are retired
	stepCancel = "cancel" // the new issuer is given up
)

type rolloverRecord struct {
	Step    string   `json:"step"`
	Key     string   `json:"key"`               // subject key identifier of the new issuer, hex
	From    string   `json:"from,omitempty"`    // begin: that of the old one
	Cert    string   `json:"cert,omitempty"`    // begin: PEM, self-signed
	Cross   string   `json:"cross,omitempty"`   // begin: PEM of the new issuer's certificate by the old one
	List    []byte   `json:"list,omitempty"`    // begin: DER of the new issuer's first revocation list
	Retired []string `json:"retired,omitempty"` // finish: key identifiers
	Stolen  []string `json:"stolen,omitempty"`  // begin, finish: issuers whose keys somebody else has
}

// issuer reads what a roll-over made.
func (r *rolloverRecord) issuer() (*issuer, error) {
	i, err := newIssuer(setupRecord{Key: r.Key, Bundle: r.Cert, Cross: r.Cross}, 0)
	if err != nil {
		return nil, err
	}
	if i.id != r.Key {
		return nil, fmt.Errorf("the record is about issuer %s, but has the certificate of %s", r.Key, i.id)
	}
	i.from, i.list = r.From, r.List
	return i, nil
}

// A seenRecord names agents that were met during a roll-over.
type seenRecord struct {
	Key     string   `json:"key"`               // of the new issuer
	Names   []string `json:"names,omitempty"`   // they came with a certificate of it
	Accepts []string `json:"accepts,omitempty"` // they went on when a server showed one
}

type requestRecord struct {
	ID       string `json:"id"` // random, since a deleted request may come again byte by byte
	Certname string `json:"certname"`
	DER      []byte `json:"der"`
}

type deletedRecord struct {
	Requests []string `json:"requests"`
}

type issuedRecord struct {
	Certname  string    `json:"certname"`
	DER       []byte    `json:"der,omitempty"`       // empty when only the inventory of an import tells of it
	Requests  []string  `json:"requests,omitempty"`  // that are done by it
	Serial    string    `json:"serial,omitempty"`    // hex; the rest is used only without DER
	NotBefore time.Time `json:"not_before,omitzero"` //
	NotAfter  time.Time `json:"not_after,omitzero"`  //
}

type revokedRecord struct {
	Revoked []revocation `json:"revoked"`
}

// A revocation is one line of a revocation list.
type revocation struct {
	Serial string    `json:"serial"` // hex
	At     time.Time `json:"at"`
	Reason int       `json:"reason"`
	Issuer []byte    `json:"-"` // DER of the issuer's name; empty means ours
}

type cleanedRecord struct {
	Serials []string `json:"serials"` // hex
}

type ancestorRecord struct {
	CRL []byte `json:"crl"` // DER
}

// draft makes a record. Bodies are JSON so that a person can read a journal.
func draft(kind, key string, body any) (journal.Draft, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return journal.Draft{}, fmt.Errorf("encode %s of %s: %w", kind, key, err)
	}
	return journal.Draft{Stream: journal.State, Kind: kind, Key: key, Body: b}, nil
}

// serialText is how records and tables write serial numbers: lower-case hex
// without leading zeros.
func serialText(n *big.Int) string { return n.Text(16) }
