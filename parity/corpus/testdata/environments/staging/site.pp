notify { "staging of ${trusted['certname']} in ${environment}": }
node /^staging[12]/ { notify { 'one of two': } }
node default { include stdlib }
