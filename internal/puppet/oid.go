package puppet

// This file knows the names of Puppet's registered certificate extensions.

type oidName struct{ oid, short string }

// puppetOIDs returns the table of lib/puppet/ssl/oids.rb and, for the last two,
// of puppetserver's certificate_authority.clj.
func puppetOIDs() []oidName {
	const reg, auth = "1.3.6.1.4.1.34380.1.1", "1.3.6.1.4.1.34380.1.3"
	return []oidName{
		{"1.3.6.1.4.1.34380", "puppetlabs"},
		{"1.3.6.1.4.1.34380.1", "ppCertExt"},
		{reg, "ppRegCertExt"},
		{reg + ".1", "pp_uuid"},
		{reg + ".2", "pp_instance_id"},
		{reg + ".3", "pp_image_name"},
		{reg + ".4", "pp_preshared_key"},
		{reg + ".5", "pp_cost_center"},
		{reg + ".6", "pp_product"},
		{reg + ".7", "pp_project"},
		{reg + ".8", "pp_application"},
		{reg + ".9", "pp_service"},
		{reg + ".10", "pp_employee"},
		{reg + ".11", "pp_created_by"},
		{reg + ".12", "pp_environment"},
		{reg + ".13", "pp_role"},
		{reg + ".14", "pp_software_version"},
		{reg + ".15", "pp_department"},
		{reg + ".16", "pp_cluster"},
		{reg + ".17", "pp_provisioner"},
		{reg + ".18", "pp_region"},
		{reg + ".19", "pp_datacenter"},
		{reg + ".20", "pp_zone"},
		{reg + ".21", "pp_network"},
		{reg + ".22", "pp_securitypolicy"},
		{reg + ".23", "pp_cloudplatform"},
		{reg + ".24", "pp_apptier"},
		{reg + ".25", "pp_hostname"},
		{reg + ".26", "pp_owner"},
		{"1.3.6.1.4.1.34380.1.2", "ppPrivCertExt"},
		{auth, "ppAuthCertExt"},
		{auth + ".1", "pp_authorization"},
		{auth + ".2", "pp_auth_auto_renew"},
		{auth + ".13", "pp_auth_role"},
		{auth + ".39", "pp_cli_auth"},
	}
}

// ArcAuth begins the OIDs of Puppet's authorization extensions, such as pp_cli_auth.
const ArcAuth = "1.3.6.1.4.1.34380.1.3."

// OIDName returns the short name of a registered extension.
func OIDName(oid string) (short string, ok bool) {
	for _, o := range puppetOIDs() {
		if o.oid == oid {
			return o.short, true
		}
	}
	return "", false
}

// OIDByName returns the dotted form of a registered extension.
func OIDByName(short string) (oid string, ok bool) {
	for _, o := range puppetOIDs() {
		if o.short == short {
			return o.oid, true
		}
	}
	return "", false
}
