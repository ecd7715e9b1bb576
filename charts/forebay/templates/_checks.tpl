{{/* Values that cannot work together end the rendering here, with a message that says what to do. */}}
{{- define "forebay.checks" -}}
{{- include "forebay.checks.names" . -}}
{{- include "forebay.checks.redis" . -}}
{{- include "forebay.checks.durability" . -}}
{{- include "forebay.checks.ways-in" . -}}
{{- $election := .Values.controller.leaderElection -}}
{{- if not (and (lt (mulf $election.retrySeconds 1.2) (float64 $election.renewSeconds)) (lt (float64 $election.renewSeconds) (float64 $election.leaseSeconds))) -}}
{{- fail "controller.leaderElection: retrySeconds must be below renewSeconds, and that below leaseSeconds" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.checks.names" -}}
{{- $own := .Release.Namespace -}}
{{- if gt (len (include "forebay.releaseId" .)) 63 -}}
{{- fail (printf "namespace and name of the release, %s, are a label's value together and have more than 63 characters: choose shorter ones" (include "forebay.releaseId" .)) -}}
{{- end -}}
{{- if eq .Values.defaultNamespace $own -}}
{{- fail (printf "defaultNamespace is %s, where the platform itself runs and no Functions are served: set defaultNamespace to another namespace, or install the release into one of its own (helm install -n forebay --create-namespace)" $own) -}}
{{- end -}}
{{- if has $own .Values.namespaces -}}
{{- fail (printf "namespaces contains %s, where the platform itself runs: whoever may create Functions there could read the platform's Secrets. Take it out, or install the release into a namespace of its own" $own) -}}
{{- end -}}
{{- if and .Values.namespaces (not (has .Values.defaultNamespace .Values.namespaces)) -}}
{{- fail (printf "defaultNamespace %s is not among namespaces (%s): add it there, or set defaultNamespace to one of them" .Values.defaultNamespace (join ", " .Values.namespaces)) -}}
{{- end -}}
{{- end -}}

{{- define "forebay.checks.redis" -}}
{{- $external := .Values.redis.external -}}
{{- if and (not $external.url) (or $external.secretName $external.caSecretName $external.controllerUsername $external.gatewayUsername $external.functionsUsername) -}}
{{- fail "redis.external is set without redis.external.url: set the url, such as rediss://redis.example.com:6379, or leave all of redis.external out for the bundled Valkey" -}}
{{- end -}}
{{- if and (eq .Values.redis.acl "shared") (not $external.url) -}}
{{- fail "redis.acl: shared is for an external Redis without ACL rights; the bundled Valkey has them: leave redis.acl at per-function, or set redis.external.url" -}}
{{- end -}}
{{- if and $external.url (not $external.secretName) (or $external.controllerUsername $external.gatewayUsername $external.functionsUsername) -}}
{{- fail "redis.external names users without their passwords: set redis.external.secretName" -}}
{{- end -}}
{{- if and (or $external.sentinelUsername $external.sentinelPasswordKey) (not (regexMatch "^rediss?\\+sentinel:" $external.url)) -}}
{{- fail "redis.external.sentinelUsername and sentinelPasswordKey are for sentinels: write redis.external.url with redis+sentinel://" -}}
{{- end -}}
{{- if and $external.sentinelPasswordKey (not $external.secretName) -}}
{{- fail "redis.external.sentinelPasswordKey is a key of a Secret: set redis.external.secretName" -}}
{{- end -}}
{{- if and (include "forebay.redis.several" .) .Values.networkPolicy.enabled (not .Values.networkPolicy.externalRedis) -}}
{{- fail "redis.external.url names several servers, which are not all in it: set networkPolicy.externalRedis to the peers that they and their sentinels are at" -}}
{{- end -}}
{{- if and $external.caSecretName (not (hasPrefix "rediss" $external.url)) -}}
{{- fail "redis.external.caSecretName is for TLS: write redis.external.url with rediss://" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.checks.durability" -}}
{{- $external := .Values.redis.external.url -}}
{{- if and (eq .Values.durability "replica") (not $external) -}}
{{- fail "durability: replica needs a replica, which the bundled Valkey has not: set redis.external.url to a Redis that has one, or durability to fsync" -}}
{{- end -}}
{{- if and (eq .Values.durability "fsync") (not $external) (not .Values.valkey.persistence.enabled) -}}
{{- fail "durability: fsync keeps accepted events on a volume: leave valkey.persistence.enabled at true, or durability at process" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.checks.ways-in" -}}
{{- range $name, $service := dict "service" .Values.service "functionsService" .Values.functionsService -}}
{{- if and $service.nodePort (eq $service.type "ClusterIP") -}}
{{- fail (printf "%s.nodePort needs %s.type NodePort or LoadBalancer" $name $name) -}}
{{- end -}}
{{- if and (or $service.loadBalancerClass $service.loadBalancerSourceRanges) (ne $service.type "LoadBalancer") -}}
{{- fail (printf "%s.loadBalancerClass and loadBalancerSourceRanges need %s.type LoadBalancer" $name $name) -}}
{{- end -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}
{{- fail (printf "%s.externalTrafficPolicy needs %s.type NodePort or LoadBalancer" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.service.nodePort (eq (int .Values.service.nodePort) (int .Values.functionsService.nodePort)) -}}
{{- fail "service.nodePort and functionsService.nodePort must differ" -}}
{{- end -}}
{{- range $part := list "api" "functions" -}}
{{- $ingress := get $.Values.ingress $part -}}
{{- if and $ingress.enabled (not $ingress.host) -}}
{{- fail (printf "ingress.%s.enabled needs ingress.%s.host" $part $part) -}}
{{- end -}}
{{- $route := get $.Values.httpRoute $part -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- fail (printf "httpRoute.%s.enabled needs httpRoute.%s.parentRefs: the Gateway it belongs to" $part $part) -}}
{{- end -}}
{{- if and $route.enabled (not $route.hostnames) -}}
{{- fail (printf "httpRoute.%s.enabled needs httpRoute.%s.hostnames" $part $part) -}}
{{- end -}}
{{- end -}}
{{- include "forebay.checks.origins" . -}}
{{- end -}}

{{/* A page that a function serves must not share an origin with management. */}}
{{- define "forebay.checks.origins" -}}
{{- $why := "a page that a function serves would share its origin with management: give them different host names" -}}
{{- $api := list -}}
{{- $functions := list -}}
{{- if .Values.ingress.api.enabled -}}{{- $api = append $api .Values.ingress.api.host -}}{{- end -}}
{{- if .Values.httpRoute.api.enabled -}}{{- $api = concat $api .Values.httpRoute.api.hostnames -}}{{- end -}}
{{- if .Values.ingress.functions.enabled -}}{{- $functions = append $functions .Values.ingress.functions.host -}}{{- end -}}
{{- if .Values.httpRoute.functions.enabled -}}{{- $functions = concat $functions .Values.httpRoute.functions.hostnames -}}{{- end -}}
{{- range $host := $api -}}
{{- if has $host $functions -}}
{{- fail (printf "%s is the host name of the API and of functions: %s" $host $why) -}}
{{- end -}}
{{- end -}}
{{- end -}}
