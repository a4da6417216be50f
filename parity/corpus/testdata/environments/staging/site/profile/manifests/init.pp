class profile { notify { "profile of ${environment}": message => Sensitive('not rich') } }
