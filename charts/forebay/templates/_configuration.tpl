{{/* What gateway and controller are told alike, as JSON. Takes root and component. */}}
{{- define "forebay.configuration.common" -}}
{{- $values := .root.Values -}}
{{- dict
  "redis" (include "forebay.redis.settings" . | fromJson)
  "prefix" $values.prefix
  "region" $values.region
  "account" $values.account
  "namespace" $values.defaultNamespace
  "auth" (ternary "required" "off" (eq (toString $values.auth) "required"))
  "log_level" $values.logLevel
| toJson -}}
{{- end -}}

{{- define "forebay.configuration.gateway" -}}
{{- $gateway := .Values.gateway -}}
{{- $own := dict
  "controller_url" (printf "http://%s:8490" (include "forebay.serviceHost" (dict "root" . "suffix" "controller")))
  "host" .Values.listenAddress
  "port" 8480
  "functions_port" 8481
  "invoke_port" 8482
  "metrics_port" 8483
  "allowed_hosts" $gateway.allowedHosts
  "waiting_max" $gateway.waitingMax
  "durability" .Values.durability
  "idempotency_retention_s" (int .Values.idempotency.retentionSeconds)
  "stop_s" $gateway.stopSeconds
-}}
{{- $common := include "forebay.configuration.common" (dict "root" . "component" "gateway") | fromJson -}}
{{- merge $own $common | toPrettyJson -}}
{{- end -}}

{{- define "forebay.configuration.controller" -}}
{{- $own := dict
  "gateway_url" (printf "http://%s:8482" (include "forebay.serviceHost" (dict "root" . "suffix" "invoke")))
  "retry_delays_s" .Values.retryDelaysSeconds
  "result_retention_s" (int .Values.results.retentionSeconds)
  "instances_max" .Values.instancesMax
  "cluster" (include "forebay.configuration.cluster" . | fromJson)
-}}
{{- $common := include "forebay.configuration.common" (dict "root" . "component" "controller") | fromJson -}}
{{- merge $own $common | toPrettyJson -}}
{{- end -}}

{{/* The part of the controller's configuration that is about Kubernetes, as JSON. */}}
{{- define "forebay.configuration.cluster" -}}
{{- $election := .Values.controller.leaderElection -}}
{{- $runtimeImage := include "forebay.image" (dict "root" . "image" .Values.runtimeImage) -}}
{{- $runtimes := dict -}}
{{- range $name, $runtime := .Values.runtimes -}}
{{- $_ := set $runtimes $name (dict "image" (default $runtimeImage $runtime.image)) -}}
{{- end -}}
{{- dict
  "release" .Release.Name
  "release_namespace" .Release.Namespace
  "full_name" (include "forebay.fullname" .)
  "namespaces" .Values.namespaces
  "host" .Values.listenAddress
  "port" 8490
  "metrics_port" 8483
  "function_key_file" "/etc/forebay/function-key/function-key"
  "redis_acl" .Values.redis.acl
  "redis_for_functions" (include "forebay.redis.forFunctions" . | fromJson)
  "runtimes" $runtimes
  "runtime_image" $runtimeImage
  "image_pull_policy" .Values.functions.imagePullPolicy
  "image_pull_secrets" .Values.functions.imagePullSecrets
  "pod" (include "forebay.configuration.pod" . | fromJson)
  "network_policy" (include "forebay.configuration.networkPolicy" . | fromJson)
  "outbound" (dict "allow_http" .Values.outbound.allowHttp "allowed" .Values.outbound.allowed)
  "lease_duration_s" $election.leaseSeconds
  "renew_deadline_s" $election.renewSeconds
  "retry_period_s" $election.retrySeconds
| toJson -}}
{{- end -}}

{{/* What the operator adds to functions' pods. */}}
{{- define "forebay.configuration.pod" -}}
{{- $functions := .Values.functions -}}
{{- dict
  "labels" $functions.podLabels
  "annotations" $functions.podAnnotations
  "node_selector" $functions.nodeSelector
  "tolerations" $functions.tolerations
  "affinity" $functions.affinity
  "topology_spread_constraints" $functions.topologySpreadConstraints
  "priority_class_name" $functions.priorityClassName
  "runtime_class_name" $functions.runtimeClassName
  "runtime_resources" $functions.runtimeResources
| toJson -}}
{{- end -}}

{{/* What every function may reach, as rules of a NetworkPolicy's egress, and what none may. */}}
{{- define "forebay.configuration.networkPolicy" -}}
{{- $policy := .Values.networkPolicy -}}
{{- dict
  "enabled" $policy.enabled
  "redis" (list (include "forebay.egress.redis" . | fromYaml))
  "gateway" (list (include "forebay.egress.component" (dict "root" . "component" "gateway" "port" 8482) | fromYaml))
  "dns" (list (include "forebay.egress.dns" . | fromYaml))
  "blocked_cidrs" $policy.blockedCidrs
  "cluster_cidrs" $policy.clusterCidrs
  "read_nodes" (empty .Values.namespaces)
| toJson -}}
{{- end -}}
