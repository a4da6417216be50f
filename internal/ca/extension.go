package ca

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file makes the extensions that an operator gives to a certificate, and
// compares them with those that a certificate has.

// grantedExtensions encodes extensions by OID or registered short name, in the order
// of their OIDs. The rules are those for a request (validate-extensions!), except
// that the operator may write authorization extensions; the one that opens this very
// authority is given by client alone, and repeating it then is no mistake.
func grantedExtensions(values map[string]string, client bool) ([]pkix.Extension, error) {
	var all []pkix.Extension
	for name, value := range values {
		id, err := grantableOID(name)
		if err != nil {
			return nil, err
		}
		if id.String() == oidCLIAuth {
			if !client || value != "true" {
				return nil, fault.New(fault.Invalid, "Found extensions that are not permitted: %s", oidCLIAuth)
			}
			continue
		}
		if slices.ContainsFunc(all, func(e pkix.Extension) bool { return e.Id.Equal(id) }) {
			return nil, fault.New(fault.Invalid, "The extension %s is given twice: by name and by OID", id)
		}
		if all, err = appendText(all, id, value); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b pkix.Extension) int { return slices.Compare(a.Id, b.Id) })
	if !client {
		return all, nil
	}
	// What the default auth.conf asks of the CA's own clients.
	id, err := grantableOID(oidCLIAuth)
	if err != nil {
		return nil, err
	}
	cliAuth, err := appendText(nil, id, "true")
	return append(cliAuth, all...), err
}

func appendText(all []pkix.Extension, id asn1.ObjectIdentifier, value string) ([]pkix.Extension, error) {
	der, err := asn1.MarshalWithParams(value, "utf8")
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The value of extension %s cannot be encoded: %v", id, err)
	}
	return append(all, pkix.Extension{Id: id, Value: der}), nil
}

// grantableOID reads the name of an extension and refuses what lies outside Puppet's
// arcs.
func grantableOID(name string) (asn1.ObjectIdentifier, error) {
	dotted, ok := puppet.OIDByName(name)
	if !ok {
		dotted = name
	}
	var id asn1.ObjectIdentifier
	for s := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return nil, fault.New(fault.Invalid, "%q is neither an OID nor the short name of a Puppet extension: write pp_role, or 1.3.6.1.4.1.34380.1.2.1 for one of your own", name)
		}
		id = append(id, int(n))
	}
	if oid := id.String(); !under(arcRegistered, oid) && !under(arcPrivate, oid) && !under(arcAuthorization, oid) {
		return nil, fault.New(fault.Invalid, "Found extensions that are not permitted: %s", oid)
	}
	return id, nil
}

// sameExtensions says whether a certificate has the wanted ones of Puppet's arcs and
// no others there.
func sameExtensions(have, want []pkix.Extension) bool {
	return slices.Equal(extensionTexts(have), extensionTexts(want))
}

func extensionTexts(all []pkix.Extension) []string {
	var out []string
	for _, e := range all {
		if oid := e.Id.String(); under(arcRegistered, oid) || under(arcPrivate, oid) || under(arcAuthorization, oid) {
			out = append(out, fmt.Sprintf("%s=%q", oid, extensionText(e.Value)))
		}
	}
	slices.Sort(out)
	return out
}
